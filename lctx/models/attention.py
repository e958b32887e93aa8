"""Attention of one layer: it asks memory for sources and writes it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from lctx.kernels.base import Kernel
from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source
from lctx.layers.parameters import Owner, declare
from lctx.memory.base import Layer, Memory
from lctx.models.heads import Heads
from lctx.patterns.base import Pattern
from lctx.positions.base import Score, Sizes
from lctx.types import EMPTY, Array, Carry, Coords, segment_coords


@struct.dataclass
class Open:
  """A segment that is not full yet; a token sits in the slot of its index."""

  x: Array  # [B, T, D] as the layer received it
  k: Array  # [B, T, K, carried key width]
  v: Array  # [B, T, K, H]
  at: Coords

  def add(self, x, k, v, at: Coords) -> 'Open':
    """With new tokens in the slots from at.index[:, 0] on, row by row.

    Tokens of the EMPTY document change nothing.
    """
    valid = at.document >= 0

    def put(old, new):
      def row(old, new, start, valid):
        held = jax.lax.dynamic_slice_in_dim(old, start, new.shape[0], 0)
        kept = valid.reshape(-1, *(1,) * (new.ndim - 1))
        merged = jnp.where(kept, new.astype(old.dtype), held)
        return jax.lax.dynamic_update_slice_in_dim(old, merged, start, 0)

      return jax.vmap(row)(old, new, at.index[:, 0], valid)

    document = put(self.at.document, at.document)
    offset = put(self.at.offset, at.offset)
    return Open(
      put(self.x, x),
      put(self.k, k),
      put(self.v, v),
      self.at.replace(document=document, offset=offset),
    )

  def last(
    self, at: Coords, before: tuple[Array, Array] | None
  ) -> tuple[Array, Array]:
    """Document and offset [B] of the token before the first of `at`.

    `before`: those of the last one that is in memory, if they are known.
    """
    slot_B1 = at.index[:, :1] - 1
    found = (
      jnp.take_along_axis(x, jnp.maximum(slot_B1, 0), axis=1)[:, 0]
      for x in (self.at.document, self.at.offset)
    )
    nothing = jnp.full_like(slot_B1[:, 0], EMPTY)
    here_B = slot_B1[:, 0] >= 0
    return tuple(
      jnp.where(here_B, x, y)
      for x, y in zip(found, before or (nothing, nothing))
    )


@struct.dataclass
class LayerCarry:
  """What a layer remembers: closed segments, and the open one if any."""

  memory: Carry
  open: Open | None = None


def open_segment(batch: int, length: int, sizes: Sizes, dtype) -> Open:
  """An open segment that holds nothing yet."""
  of_k, of_v = sizes.carried
  return Open(
    jnp.zeros((batch, length, sizes.width), dtype),
    jnp.zeros((batch, length, *of_k), dtype),
    jnp.zeros((batch, length, *of_v), dtype),
    segment_coords(jnp.full((batch, length), EMPTY, jnp.int32)),
  )


class Attention(nn.Module):
  """Dai et al. 2019, section 3.3: no biases in any projection."""

  sizes: Sizes
  heads: Heads
  pattern: Pattern
  memory: Memory
  dropout: float
  kernel: Kernel

  @nn.compact
  def __call__(
    self,
    x,
    at: Coords,
    carry: LayerCarry,
    scores: tuple[Score, ...],
    norm: Callable,
    shared: Any,
  ):
    """y, the carry after this segment, and memory's auxiliary loss.

    `norm` comes before the projections (pre-norm), or changes nothing;
    `shared` is what the stack's layers share of memory.
    """
    param, sizes = declare(self), self.sizes
    average = self.heads.average(sizes)
    to_q, to_kv = self._projections(param, average is not None)
    normed = norm(x)
    k, v = to_kv(normed)
    q_BTNH = to_q(normed)
    pattern, *_ = self.memory.patterns(self.pattern)
    near = Source(q_BTNH, k, v, at, at, scores, pattern)
    layer, opened = Layer(x, norm, to_kv, shared, sizes), carry.open
    if opened is not None:
      opened = opened.add(x, k, v, at)
      near = near.replace(k=opened.k, v=opened.v, k_at=opened.at)
      layer = layer._replace(x=opened.x)
    look = Owner(self.memory.sources, name='memory')
    sources = look(carry.memory, near, layer)
    if average is not None:
      sources = averaged(sources, average, sizes.head_width, self.kernel)
    y_BTNH = self.kernel(sources, self._dropout())
    shape = (sizes.num_heads, sizes.head_width, sizes.width)
    out_NHD = param('out', shape, ('heads', 'head_width', 'width'))
    y = jnp.einsum('btnh,nhd->btd', y_BTNH, out_NHD.astype(x.dtype))
    if opened is not None:
      nothing = jnp.zeros((), jnp.float32)
      return y, carry.replace(open=opened), nothing
    memory, penalty = self.memory.write(carry.memory, x, k, v, at)
    return y, LayerCarry(memory), penalty

  def _projections(self, param, queries_too: bool):
    """Of normed x to queries; and to keys, as they are carried, and values."""
    sizes, axes = self.sizes, ('width', 'heads', 'head_width')

    def projection(name, heads):
      kernel = param(name, (sizes.width, heads, sizes.head_width), axes)
      return lambda x: jnp.einsum('btd,dnh->btnh', x, kernel.astype(x.dtype))

    to_q = projection('query', sizes.num_heads)
    to_k = projection('key', sizes.key_heads)
    to_v = projection('value', sizes.key_heads)

    of_q, of_k = _same, _same
    if self.heads.norm is not None:
      of_q, of_k = (
        functools.partial(_of_head, Owner(self.heads.norm, name=name))
        for name in ('query_norm', 'key_norm')
      )

    def scaled(x):
      return of_q(to_q(x)) * jnp.asarray(sizes.head_width**-0.5, x.dtype)

    def to_kv(x):
      k_BSKH = of_k(to_k(x))
      if queries_too:
        q_BSKG = scaled(x).reshape(*k_BSKH.shape[:3], -1)
        k_BSKH = jnp.concatenate([k_BSKH, q_BSKG], axis=-1)
      return k_BSKH, to_v(x)

    return scaled, to_kv

  def _dropout(self):
    if not self.dropout or not self.has_rng('dropout'):
      return None
    key = jax.random.key_data(self.make_rng('dropout'))
    return Dropout(key, self.dropout)


def _same(x):
  return x


def _of_head(norm, x_BTNH):
  return norm(x_BTNH, 'head_width')


def averaged(
  sources: tuple[Source, ...], average: Score, width: int, kernel: Kernel
) -> tuple[Source, ...]:
  """Sources whose queries are averages over the positions they see.

  Each key is carried with the queries of its own position behind its first
  `width` channels. The average is attention over those queries, by the logits
  of `average`.
  """
  over, num_heads = [], sources[0].q.shape[2]
  for source in sources:
    of_keys = source.k[..., width:]
    queries = of_keys.reshape(*of_keys.shape[:2], num_heads, width)
    nothing = jnp.zeros_like(queries[..., :1])
    q_BTN1 = jnp.zeros_like(source.q[..., :1])
    over.append(
      source.replace(q=q_BTN1, k=nothing, v=queries, scores=(average,))
    )
  q_BTNH = kernel(tuple(over), None)
  return tuple(s.replace(q=q_BTNH, k=s.k[..., :width]) for s in sources)
