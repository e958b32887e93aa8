"""Retrieval memory: the keys and values of a long past, the nearest looked up.

Wu et al. 2022 (Memorizing Transformers), with an exact search.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from lctx.layers.parameters import within
from lctx.memory.base import Memory, check_no_adaptive
from lctx.memory.carriers import PROJECTED
from lctx.memory.chunks import cut
from lctx.memory.gates import HeadGate, MemoryGate
from lctx.memory.held import Held, pushed
from lctx.patterns.base import Everything, visible
from lctx.patterns.causal import Causal
from lctx.positions.base import Score
from lctx.types import MASKED, Array

AT_ONCE = 64  # MiB of logits that are searched in one turn


@dataclasses.dataclass(frozen=True)
class Retrieval(Memory):
  """Each query of each head attends to its `neighbours` best keys of `slots`.

  `slots` hold the keys and values of all segments before, as far back as they
  go, each query those of its own document. No position counts, and gradients
  reach queries, never the memory. `gate` joins what is recalled to what
  attention sees; where nothing is held it changes nothing.
  """

  slots: int = 8192
  neighbours: int = 32
  gate: MemoryGate = dataclasses.field(default_factory=HeadGate)

  def __post_init__(self):
    check_slots(self.slots)
    if not 1 <= self.neighbours <= self.slots:
      raise ValueError(
        f'model.memory.neighbours = {self.neighbours} must be from 1 to '
        f'model.memory.slots = {self.slots}. Published: 32.'
      )

  def check(self, sizes, pattern, heads):
    check_no_gaps(self, pattern)

  def flops(self, sizes, segment):
    keys = self.slots + 2 * self.neighbours
    return 2.0 * sizes.num_heads * sizes.head_width * keys

  def initial(self, batch, sizes, dtype):
    return PROJECTED.empty(batch, self.slots, sizes, dtype)

  def mix(self, param, carry, y, layer):
    q_BTNH, at = layer.near.q, layer.tokens.at
    if not at.length:
      return y, carry
    seen_BTM = visible(Everything(), at, carry.at, None)[0]
    k, v = jax.lax.stop_gradient(carry.states)
    mib = q_BTNH.shape[0] * q_BTNH.shape[2] * self.slots * 4 / 2**20  # a query
    turn = min(max(1, math.floor(AT_ONCE / mib)), at.length)
    found = _in_turns(
      lambda q, seen: nearest(
        q, k, v, seen, self.neighbours, layer.near.placeless
      ),
      (q_BTNH, seen_BTM),
      turn,
    )
    any_BT11 = seen_BTM.any(axis=-1)[:, :, None, None]
    joined = self.gate(within(param, 'gate'), y, found)
    return jnp.where(any_BT11, joined, y), carry

  def write(self, param, carry, segment, layer):
    return stored(carry, segment), jnp.zeros((), jnp.float32)


@dataclasses.dataclass(frozen=True)
class DenseRetrieval(Memory):
  """Queries attend to all of `slots` and to their own segment in one softmax.

  As Memorizing Transformers' dense variant: no position counts in memory, no
  gradient reaches it, and there is no gate.
  """

  slots: int = 8192

  def __post_init__(self):
    check_slots(self.slots)

  def check(self, sizes, pattern, heads):
    check_no_gaps(self, pattern)
    check_no_adaptive(self, heads, 'holds keys without positions')

  def flops(self, sizes, segment):
    return 4.0 * sizes.num_heads * sizes.head_width * self.slots

  def patterns(self, pattern):
    return pattern, Causal()

  def initial(self, batch, sizes, dtype):
    return PROJECTED.empty(batch, self.slots, sizes, dtype)

  def sources(self, param, carry, near, layer):
    k, v = jax.lax.stop_gradient(carry.states)
    far = near.replace(
      k=k.astype(near.k.dtype),
      v=v.astype(near.v.dtype),
      k_at=carry.at,
      scores=near.placeless,
      pattern=Causal(),
    )
    return near, far

  def write(self, param, carry, segment, layer):
    return stored(carry, segment), jnp.zeros((), jnp.float32)


def nearest(
  q_BTNH: Array,
  k_BMKH: Array,
  v_BMKH: Array,
  seen_BTM: Array,
  count: int,
  placeless: tuple[Score, ...] = (),
) -> Array:
  """Attention to the `count` keys that each query likes best, [B, T, N, H].

  Exact: no other key of the memory has a larger logit. `placeless` scores keep
  the order of logits.
  """
  batch, length, heads, width = q_BTNH.shape
  keys = k_BMKH.shape[2]
  q = q_BTNH.reshape(batch, length, keys, heads // keys, width)
  logits = jnp.einsum(
    'btkgh,bmkh->bkgtm',
    *jax.lax.stop_gradient((q, k_BMKH[..., :width])),
    precision=jax.lax.Precision.HIGHEST,  # a TPU would round both
    preferred_element_type=jnp.float32,
  )
  hidden = ~seen_BTM[:, None, None]
  top, best = jax.lax.top_k(jnp.where(hidden, MASKED, logits), count)
  pick = jax.vmap(jax.vmap(lambda x_MH, best: x_MH[best]))
  k, v = (
    pick(x.swapaxes(1, 2)[..., :width], best) for x in (k_BMKH, v_BMKH)
  )  # [B, K, G, T, count, H]
  logits = jnp.einsum(
    'btkgh,bkgtch->bkgtc',
    q,
    k.astype(q.dtype),
    preferred_element_type=jnp.float32,
  )
  for score in placeless:
    logits = score.block(logits, q, None, None)
  seen = top > MASKED
  logits = jnp.where(seen, logits, MASKED)
  weights = jnp.where(seen, jax.nn.softmax(logits, axis=-1), 0.0)
  y = jnp.einsum('bkgtc,bkgtch->btkgh', weights.astype(v.dtype), v)
  return y.reshape(q_BTNH.shape).astype(q_BTNH.dtype)


def stored(held: Held, segment) -> Held:
  """With the keys and values of a segment's text; the oldest go."""
  text = segment.text
  return pushed(held, (text.k, text.v), text.at)


def check_slots(slots: int) -> None:
  if slots < 1:
    raise ValueError(
      f'model.memory.slots = {slots} counts keys that are kept and must be at '
      'least 1. Published: 8192 and more.'
    )


def check_no_gaps(memory: Memory, pattern) -> None:
  if pattern.stride:
    raise ValueError(
      f'model.pattern = {pattern} leaves gaps, but model.memory = '
      f'{type(memory).__name__.lower()} looks up keys wherever they lie, '
      'in the gaps too. Use causal or window.'
    )


def _in_turns(one, arrays, turn):
  """`one` of `turn` queries at a time, [B, T, ...] in and out."""
  length = arrays[0].shape[1]
  if turn >= length:
    return one(*arrays)
  again = jax.checkpoint(lambda parts: one(*parts))
  y = jax.lax.map(again, tuple(cut(x, turn) for x in arrays))
  y = jnp.moveaxis(y, 0, 1)
  return y.reshape(y.shape[0], -1, *y.shape[3:])[:, :length]
