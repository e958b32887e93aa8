"""Compressive memory: what leaves the cache is kept, but shorter.

Rae et al. 2019 (Compressive Transformers).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lctx.kernels.choose import attended
from lctx.kernels.source import Source
from lctx.layers.parameters import within
from lctx.memory.base import (
  Memory,
  check_no_adaptive,
  check_one_way,
  check_sees_all,
)
from lctx.memory.carriers import HIDDEN, PROJECTED, Hidden
from lctx.memory.compressors import Compressor, Conv
from lctx.memory.held import Held, pushed
from lctx.patterns.base import Everything, visible
from lctx.patterns.causal import Causal
from lctx.types import EMPTY, Array, join, segment_coords


class Recent(NamedTuple):
  """What the cache holds of each state; None: it does without."""

  x: Array
  projected: tuple[Array, Array] | None  # keys and values
  usage: Array | None  # what attention gave, and how many queries: [B, M, 2]


@dataclasses.dataclass(frozen=True)
class Compressive(Memory):
  """A cache of the `recent` states, and one of `compressed` older ones.

  When a segment pushes as many states out of the first, `compressor` makes one
  of every `rate` and puts it into the second. Queries see both in one softmax,
  in the order of their slots: a compressed state is one step.
  """

  recent: int = 512
  compressed: int = 512
  rate: int = 4
  compressor: Compressor = dataclasses.field(default_factory=Conv)
  carrier: Hidden = HIDDEN

  def __post_init__(self):
    for name in ('recent', 'compressed', 'rate'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'model.memory.{name} = {getattr(self, name)} must be at least 1. '
          'Published: as many recent and compressed states as a segment has '
          'tokens, and a rate of 3 or 4.'
        )
    self.compressor.check()

  @property
  def needs_bptt(self):
    return self.compressor.learned and not self.compressor.loss

  @property
  def length(self):
    return self.recent + self.compressed

  @property
  def multiple(self):
    return self.rate

  def check(self, sizes, pattern, heads):
    check_one_way(self, pattern)
    check_sees_all(self, pattern)
    why = 'adds states that stand for many and have none'
    check_no_adaptive(self, heads, why)

  def check_segment(self, segment, field):
    if segment > self.rate * self.compressed:
      raise ValueError(
        f'{field} = {segment} states become {segment // self.rate} at once, '
        f'more than model.memory.compressed = {self.compressed} holds. Let it '
        'hold as many at least.'
      )
    if segment % self.rate:
      raise ValueError(
        f'{field} = {segment} states leave the memory at once, which '
        f'model.memory.rate = {self.rate} does not divide. Use '
        f'{segment - segment % self.rate or self.rate} tokens, or another rate.'
      )

  def patterns(self, pattern):
    return pattern, Causal()

  def flops(self, sizes, segment):
    heads = sizes.key_heads * sizes.head_width
    made = 2 * sizes.width * heads / self.rate  # keys and values
    if self.compressor.learned:
      made += self.compressor.matrices * sizes.width**2
    if self.compressor.by_usage:  # queries, logits, and a gradient by them
      slots = self.length + segment
      asked = sizes.width * sizes.head_width + (sizes.head_width + 1) * slots
      made += sizes.num_heads * asked
    return 2.0 * made  # and the loss, while it trains

  def initial(self, batch, sizes, dtype):
    x = HIDDEN.empty(batch, self.recent, sizes, dtype)
    compressed = self.carrier.empty(batch, self.compressed, sizes, dtype)
    held = self.carrier.empty(batch, self.recent, sizes, dtype).states
    usage = jnp.zeros((batch, self.recent, 2), jnp.float32)
    states = Recent(
      x.states,
      held if self.carrier == PROJECTED else None,
      usage if self.compressor.by_usage else None,
    )
    return x.replace(states=states), compressed

  def sources(self, param, carry, near, layer):
    recent, compressed = carry
    x, projected, _ = recent.states
    k, v = self.carrier.keys_and_values(
      x if projected is None else projected, layer
    )
    near = near.after(k, v, recent.at)
    k, v = self.carrier.keys_and_values(compressed.states, layer)
    far = near.replace(
      k=k.astype(near.k.dtype),
      v=v.astype(near.v.dtype),
      k_at=compressed.at.shifted(self.recent),
      pattern=Causal(),
    )
    return near, far

  def write(self, param, carry, segment, layer):
    recent, compressed = carry
    text, length = segment.text, segment.text.at.length
    _, projected, usage = recent.states
    if projected is not None:
      projected = text.k, text.v
    if usage is not None:
      kept, usage = self._usage(carry, text, layer)
      recent = recent.replace(states=recent.states._replace(usage=kept))
    new = Recent(text.x, projected, usage)
    old_x, old_usage, old_at = _evicted(recent, new, text.at)
    if old_usage is not None:  # a mean over queries, first ones had more
      old_usage = old_usage[..., 0] / jnp.maximum(old_usage[..., 1], 1)
    # Documents before the last that is evicted are over: nothing reads them.
    document_BT = old_at.document
    last_BT = document_BT == document_BT.max(axis=1, keepdims=True)
    old_at = old_at.replace(document=jnp.where(last_BT, document_BT, EMPTY))

    own = within(param, 'compressor')
    own_loss = self.compressor.learned and self.compressor.loss > 0

    def compress(x, param):
      given = param, x, old_at.document, old_usage
      return self.compressor.compress(*given, self.rate)

    made_x, document_BG = compress(old_x, _still(own) if own_loss else own)
    made_at, penalty = segment_coords(document_BG), jnp.zeros((), jnp.float32)
    if own_loss:
      alone, _ = compress(jax.lax.stop_gradient(old_x), own)
      penalty = self.compressor.loss * reconstruction(
        layer, text, (old_x, old_at), (alone, made_at)
      )
    made = self.carrier.of_states(made_x, layer)
    assert made_at.length * self.rate == length
    carry = pushed(recent, new, text.at), pushed(compressed, made, made_at)
    return carry, penalty

  def for_inference(self):
    return dataclasses.replace(self, carrier=PROJECTED)

  def _usage(self, carry, text, layer):
    """As `Recent` has it, of each recent state and of the text's, so far.

    Attention is a mean of values, so its gradient by a key's value is what all
    queries gave to that key.
    """
    carry, text = jax.lax.stop_gradient((carry, text))
    recent, _ = carry
    q = layer.queries(layer.norm(text.x))
    near = layer.near.replace(
      q=q, k=text.k, v=text.v, q_at=text.at, k_at=text.at
    )
    sources = jax.lax.stop_gradient(self.sources(None, carry, near, layer))

    def total(values):
      parts = (source.replace(v=v) for source, v in zip(sources, values))
      return layer.kernel(tuple(parts), None).sum()

    ones = tuple(jnp.ones_like(source.v[..., :1]) for source in sources)
    given = jax.grad(total)(ones)[0][..., 0].sum(axis=-1)  # [B, M + T]
    given = jax.lax.stop_gradient(given).astype(jnp.float32)
    source, slots = sources[0], recent.at.length
    where = source.pattern, source.q_at, source.k_at, source.heads_N
    asked = visible(*where)[0].sum(axis=1, dtype=jnp.float32)
    both = jnp.stack([given, asked], axis=-1)
    return recent.states.usage + both[:, :slots], both[:, slots:]


def reconstruction(layer, text, old, new) -> Array:
  """How far attention to new states is from that to old ones: a mean square.

  Rae et al. 2019, algorithm 2. Each is (states [B, S, D], where they sit).
  Its gradient reaches the new states, and nothing else.
  """
  q = layer.queries(layer.norm(text.x))
  heads = {'scores': (), 'pattern': Everything()}

  def seen_of(states, at):
    k, v = layer.keys_and_values(states)
    k = k[..., : q.shape[-1]]
    seen = attended((Source(q, k, v, text.at, at, **heads),))
    return seen.astype(jnp.float32)

  wanted = seen_of(*old)
  seen_BT = visible(Everything(), text.at, old[1], None)[0].any(axis=-1)

  def distance(states):
    far = jnp.square(seen_of(states, new[1]) - wanted).mean(axis=(2, 3))
    return jnp.where(seen_BT, far, 0).sum() / jnp.maximum(seen_BT.sum(), 1)

  value, slope = jax.lax.stop_gradient(jax.value_and_grad(distance)(new[0]))
  moved = slope * (new[0] - jax.lax.stop_gradient(new[0]))
  return value + moved.sum(dtype=jnp.float32)


def _still(param: Callable) -> Callable:
  """The same parameters, which learn nothing of what is made with them."""
  return lambda *asked: jax.lax.stop_gradient(param(*asked))


def _evicted(held: Held, new: Recent, at):
  """States, usage and coordinates of those that go when the new ones come."""
  (x, _, usage), length = held.states, at.length
  old_x = jnp.concatenate([x, new.x.astype(x.dtype)], axis=1)[:, :length]
  if usage is not None:
    usage = jnp.concatenate([usage, new.usage], axis=1)[:, :length]
  return old_x, usage, join(held.at, at).take(0, length)
