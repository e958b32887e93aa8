"""Global attention: some tokens see all, by projections of their own.

Beltagy et al. 2020 (Longformer), sections 3.1 and 3.2. Nothing of them is
carried.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from lctx.kernels.choose import attended
from lctx.kernels.source import Source
from lctx.memory.base import Memory, check_no_adaptive
from lctx.patterns.base import Everything
from lctx.patterns.chosen import NotGlobal
from lctx.types import EMPTY, Array, Coords

zeros = nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class GlobalAttention(Memory):
  """Every token sees the global ones, and these see every token.

  They are the first `first` of each document, or, with None, those whose role
  has the GLOBAL bit. At most `most` tokens of a segment are global; where there
  are more, the row becomes NaN. All others see them by the layer's own keys and
  values, beside what the pattern shows. The output of a global token is that of
  a second attention over its whole document in the segment, with queries, keys
  and values of its own (`bias`: with biases).
  """

  in_order: ClassVar[bool] = False

  most: int
  bias: bool = True
  first: int | None = None

  def __post_init__(self):
    if self.most < 1:
      raise ValueError(
        f'model.memory.most = {self.most} is how many tokens of a segment may '
        'be global, and must be at least 1.'
      )
    NotGlobal(self.first)

  @property
  def by_role(self) -> bool:
    """Whether it asks for the roles of tokens, which data must give."""
    return self.first is None

  def check(self, sizes, pattern, heads):
    check_no_adaptive(self, heads, 'has queries of its own')
    if heads.norm is not None:
      raise ValueError(
        'model.heads.norm is of queries and keys, but model.memory = '
        'globalattention has others that have no norm. Use one of the two.'
      )
    if pattern.reach.after == 0:
      raise ValueError(
        f'model.pattern = {pattern} never looks ahead, but model.memory = '
        'globalattention lets tokens see their whole document. Use a pattern '
        'that sees both ways, such as everything.'
      )

  def patterns(self, pattern):
    return pattern & NotGlobal(self.first), Everything()

  def flops(self, sizes, segment):
    size = sizes.num_heads * sizes.head_width
    queries = 2 * sizes.width * size * min(self.most, segment) / segment
    keys = 2 * sizes.width * 2 * sizes.key_heads * sizes.head_width
    return queries + keys + 2 * 2 * 2 * size * min(self.most, segment)

  def sources(self, param, carry, near, layer):
    chosen = self._chosen(layer.near.k_at)
    far = near.replace(
      k=chosen.take(layer.near.k),
      v=chosen.take(layer.near.v),
      k_at=chosen.coords(layer.near.k_at),
      pattern=Everything(),
    )
    return near, far

  def mix(self, param, carry, y, layer):
    chosen = self._chosen(layer.near.k_at)
    normed, sizes = layer.norm(layer.x), layer.sizes
    q_BGNH = self._projected(param, 'query', chosen.take(normed), sizes)
    source = Source(
      q_BGNH * jnp.asarray(sizes.scale, normed.dtype),
      self._projected(param, 'key', normed, sizes),
      self._projected(param, 'value', normed, sizes),
      chosen.coords(layer.near.k_at),
      layer.near.k_at,
      layer.near.scores,
      Everything(),
    )
    return chosen.put(y, attended((source,))), carry

  def _chosen(self, at: Coords) -> '_Chosen':
    is_global_BT = NotGlobal(self.first).chosen(at) & (at.document >= 0)
    return _Chosen.of(is_global_BT, self.most)

  def _projected(self, param, name, x, sizes):
    heads = sizes.num_heads if name == 'query' else sizes.key_heads
    shape, axes = (heads, sizes.head_width), ('heads', 'head_width')
    kernel = param(name, (sizes.width, *shape), ('width', *axes))
    y = jnp.einsum('btd,dnh->btnh', x, kernel.astype(x.dtype))
    if not self.bias:
      return y
    bias_NH = param(f'{name}_bias', shape, axes, zeros)
    return y + bias_NH.astype(x.dtype)[None, None]


@dataclasses.dataclass(frozen=True)
class _Chosen:
  """The global tokens of each row, in order; then others, which are none."""

  slot_BG: Array
  is_global_BG: Array
  too_many_B: Array

  @classmethod
  def of(cls, is_global_BT: Array, most: int) -> '_Chosen':
    order_BT = jnp.argsort(~is_global_BT, axis=1, stable=True)
    slot_BG = order_BT[:, :most].astype(jnp.int32)
    return cls(
      slot_BG,
      jnp.take_along_axis(is_global_BT, slot_BG, axis=1),
      is_global_BT.sum(axis=1) > most,
    )

  def take(self, x: Array) -> Array:
    """[B, G, ...] of [B, T, ...]."""
    slots = self.slot_BG.reshape(*self.slot_BG.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, slots, axis=1)

  def coords(self, at: Coords) -> Coords:
    taken = {
      name: self.take(getattr(at, name))
      for name in ('index', 'position', 'offset', 'document', 'segment', 'role')
    }
    taken['document'] = jnp.where(self.is_global_BG, taken['document'], EMPTY)
    return Coords(**taken)

  def put(self, y_BTNH: Array, new_BGNH: Array) -> Array:
    """`y` with these rows in place of those of the global tokens."""
    is_global = self.is_global_BG[:, :, None, None]
    new_BGNH = jnp.where(is_global, new_BGNH, self.take(y_BTNH))
    rows_B1 = jnp.arange(len(y_BTNH))[:, None]
    y_BTNH = y_BTNH.at[rows_B1, self.slot_BG].set(new_BGNH)
    return jnp.where(self.too_many_B[:, None, None, None], jnp.nan, y_BTNH)
