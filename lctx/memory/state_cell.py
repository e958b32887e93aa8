"""A recurrent cell of states beside attention, written segment by segment.

Hutchins et al. 2022 (Block-Recurrent Transformers), section 3.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from lctx.kernels.choose import attended
from lctx.kernels.source import Source
from lctx.layers.norm import Norm, RMSNorm
from lctx.layers.parameters import within
from lctx.memory.base import Memory
from lctx.memory.carriers import HIDDEN, PROJECTED, Hidden
from lctx.memory.cells import Cell, Skip
from lctx.memory.gates import ElementGate, MemoryGate
from lctx.memory.held import Held, nowhere, place, where
from lctx.patterns.base import Everything
from lctx.types import EMPTY, Array, Coords, segment_coords


class States(NamedTuple):
  """The states of a row, and their keys and values where they are held."""

  x: Array  # [B, M, D]
  projected: tuple[Array, Array] | None = None


@dataclasses.dataclass(frozen=True)
class StateCell(Memory):
  """`states` vectors that tokens look at, and that look at tokens to change.

  Down the stack: tokens attend to the states as the segments before left them,
  by queries of their own, and the output projection joins both kinds of heads.
  Along the text: when a segment closes, states attend to themselves and to its
  tokens, and `cell` makes the next ones of what they saw, by `gate`. Where that
  has a `zero_start`, what tokens recall is multiplied by a learned scale, which
  starts at zero, and states change as they would without.

  Each state has a learned start, which documents that begin see, and an
  identity, which is added to it when it is looked at or looks. The published
  code also shows the states tokens of the segment before.
  """

  needs_bptt: ClassVar[bool] = True

  states: int = 512
  cell: Cell = dataclasses.field(default_factory=Skip)
  gate: MemoryGate = dataclasses.field(default_factory=ElementGate)
  norm: Norm = dataclasses.field(default_factory=RMSNorm)
  carrier: Hidden = HIDDEN

  def __post_init__(self):
    if self.states < 1:
      raise ValueError(
        f'model.memory.states = {self.states} counts the states of a layer and '
        'must be at least 1. Published: 512.'
      )
    if self.gate.of_heads:
      raise ValueError(
        f'model.memory.gate = {type(self.gate).__name__.lower()} has a number '
        'for each head, and states have none. Use elementgate, fullgate or '
        'lstmgate.'
      )

  def check(self, sizes, pattern, heads):
    for name in ('norm', 'scale'):
      if getattr(heads, name) is not None:
        raise ValueError(
          f'model.heads.{name} brings queries and keys of tokens to another '
          'size, but model.memory = statecell has queries of its own, which it '
          'leaves as they are. Use one of the two.'
        )

  def heads(self, num_heads):
    return 2 * num_heads

  def flops(self, sizes, segment):
    width, heads = sizes.width, sizes.num_heads * sizes.head_width
    asked = width * heads + 4 * heads * self.states  # these, and learned ones
    state = 8 * width * heads + 2 * heads * (self.states + segment)
    joined = self.cell.products(width, 2 * heads)
    return 2.0 * (asked + (state + joined) * self.states / segment)

  def initial(self, batch, sizes, dtype):
    states = jnp.zeros((batch, self.states, sizes.width), dtype)
    made = None
    if self.carrier == PROJECTED:
      shape = batch, self.states, sizes.num_heads, sizes.head_width
      made = jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
    return Held(States(states, made), nowhere(batch))

  def mix(self, param, carry, y, layer):
    at, sizes = layer.tokens.at, layer.sizes
    if not at.length:
      return jnp.concatenate([y, y], axis=2), carry
    x = layer.norm(layer.tokens.x)
    q_BTNH = self._queries(param, 'ask', x, sizes)
    begins_BT = ~carry.of_same(at) & (at.document >= 0)
    begins = at.replace(document=jnp.where(begins_BT, 0, EMPTY))
    nobody = jnp.zeros((at.document.shape[0], 1), jnp.int32)
    made = carry.states.projected
    k, v = made or self._keys_and_values(param, carry.states.x, sizes)
    first_k, first_v = self._first(param, carry, sizes)
    recalled = attended(
      (
        _source(layer, q_BTNH, k, v, at, self._at(carry.at.document)),
        _source(layer, q_BTNH, first_k, first_v, begins, self._at(nobody)),
      )
    ).astype(y.dtype)
    if self.gate.zero_start:
      shape, axes = y.shape[2:], ('heads', 'head_width')
      scale_NH = param('scale', shape, axes, nn.initializers.zeros)
      recalled *= scale_NH.astype(y.dtype)[None, None]
    return jnp.concatenate([y, recalled], axis=2), carry

  def write(self, param, carry, segment, layer):
    text, sizes, states = segment.text, layer.sizes, carry.states.x
    now = place(text.at, carry.at)
    same_B11 = carry.of_same(now)[..., None]
    old = jnp.where(same_B11, states, self._start(param, sizes, states.dtype))
    new = self._next(param, old, text, now, layer).astype(states.dtype)
    new, made = where(segment.filled > 0, new, states), None
    if self.carrier == PROJECTED:
      made = self._keys_and_values(param, new, sizes)
    return Held(States(new, made), now), jnp.zeros((), jnp.float32)

  def for_inference(self):
    return dataclasses.replace(self, carrier=PROJECTED)

  def _first(self, param, carry, sizes):
    """Keys and values of the learned states, which documents begin with."""
    batch, dtype = carry.states.x.shape[0], carry.states.x.dtype
    start = self._start(param, sizes, dtype)
    return tuple(
      jnp.broadcast_to(x, (batch, *x.shape[1:]))
      for x in self._keys_and_values(param, start, sizes)
    )

  def _keys_and_values(self, param, states, sizes):
    seen = self._seen(param, states, sizes)
    return tuple(
      self._heads(param, name, seen, sizes) for name in ('key', 'value')
    )

  def _next(self, param, states, text, now, layer):
    """The states [B, M, D] after a segment."""
    sizes = layer.sizes
    seen, of_states = self._seen(param, states, sizes), self._at(now.document)
    q, across = (
      self._queries(param, name, seen, sizes) for name in ('query', 'across')
    )
    k, v = self._keys_and_values(param, states, sizes)
    itself = attended((_source(layer, q, k, v, of_states, of_states),))
    k = text.k[..., : sizes.head_width]
    told = _source(layer, across, k, text.v, of_states, text.at)
    told = attended((told,))
    both = jnp.concatenate([itself, told], axis=2)
    flat = both.reshape(*both.shape[:2], both.shape[2] * both.shape[3])
    gate = dataclasses.replace(self.gate, zero_start=False)
    return self.cell(param, gate, states, flat)

  def _seen(self, param, states, sizes):
    """States as they are looked at: normed, each with its identity."""
    normed = self.norm(within(param, 'norm'), states)
    identity_MD = param(
      'identity',
      (self.states, sizes.width),
      ('slots', 'width'),
      nn.initializers.normal(1.0),
    )
    return normed + identity_MD.astype(normed.dtype)[None]

  def _start(self, param, sizes, dtype):
    shape, init = (self.states, sizes.width), nn.initializers.normal(0.1)
    return param('start', shape, ('slots', 'width'), init).astype(dtype)[None]

  def _heads(self, param, name, x, sizes):
    """Of [B, M, D]: [B, M, N, H]."""
    shape = sizes.width, sizes.num_heads, sizes.head_width
    kernel_DNH = param(name, shape, ('width', 'heads', 'head_width'))
    return jnp.einsum('bmd,dnh->bmnh', x, kernel_DNH.astype(x.dtype))

  def _queries(self, param, name, x, sizes):
    """Heads that look: scaled."""
    return self._heads(param, name, x, sizes) * sizes.head_width**-0.5

  def _at(self, document_B1: Array) -> Coords:
    return segment_coords(jnp.repeat(document_B1, self.states, axis=1))


def _source(layer, q, k, v, q_at, k_at):
  """Without positions: masks see to documents only."""
  return Source(q, k, v, q_at, k_at, layer.near.placeless, Everything())
