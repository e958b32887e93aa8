"""Memory tokens: vectors that a segment reads first and writes last.

Bulatov et al. 2022 (Recurrent Memory Transformer): [memory; text; memory].
What the stack makes of the last ones is what the next segment begins with.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from lctx.layers.norm import LayerNorm, Norm
from lctx.layers.parameters import within
from lctx.memory.base import Around, Memory, check_sees_all
from lctx.memory.held import Held, nowhere
from lctx.types import EMPTY, NOBODY, segment_coords

PUBLISHED = 10


@dataclasses.dataclass(frozen=True)
class Tokens(Memory):
  """`count` memory tokens before the text of each segment, and after it.

  The document that goes on reads what it wrote; documents that begin read
  learned tokens instead, which see nothing but themselves and stand right
  before the first token, wherever that is in the segment. `norm` is of what is
  kept, as a model's last norm is in the published code. How many segments
  gradients pass through, `k2` there, is train.gradient_segments.
  """

  in_order: ClassVar[bool] = False  # documents begin anywhere
  needs_bptt: ClassVar[bool] = True

  count: int = PUBLISHED
  norm: Norm = dataclasses.field(default_factory=LayerNorm)

  def __post_init__(self):
    check_count(self.count)

  @property
  def around(self):
    return ReadWrite(2 * self.count, self.count, self.norm)

  def patterns(self, pattern):
    return pattern, pattern

  def check(self, sizes, pattern, heads):
    check_sees_all(self, pattern)

  def sources(self, param, carry, near, layer):
    own, count = layer.near, self.count  # without what others put in front
    written_B1 = own.k_at.document[:, count : count + 1]
    q_document = near.q_at.document
    goes_on = (q_document == written_B1) | (q_document == NOBODY)
    begins = ~goes_on & (q_document >= 0)
    offset = near.q_at.offset
    begins_at = near.q_at.replace(
      index=offset,
      position=offset,
      document=jnp.where(begins, 0, EMPTY),
      start=None,
    )
    seen = jnp.zeros((written_B1.shape[0], count), jnp.int32)
    learned = near.replace(
      k=own.k[:, :count],
      v=own.v[:, :count],
      q_at=begins_at,
      k_at=segment_coords(seen, -count),
    )
    return near, learned


@dataclasses.dataclass(frozen=True)
class ReadWrite(Around):
  """Learned and written tokens before the text, written ones after it."""

  norm: Norm = dataclasses.field(default_factory=LayerNorm)

  def initial(self, batch, sizes, dtype):
    states = jnp.zeros((batch, self.after, sizes.width), dtype)
    return Held(states, nowhere(batch))

  def first(self, param, carry, sizes):
    batch = carry.states.shape[0]
    learned = _learned(param, batch, self.after, sizes)
    x = jnp.concatenate([learned.astype(sizes.dtype), carry.states], axis=1)
    nobody = jnp.full((batch, self.after), NOBODY, jnp.int32)
    written = jnp.repeat(carry.at.document, self.after, axis=1)
    return x, jnp.concatenate([nobody, written], axis=1)

  def last(self, param, carry, place, sizes):
    learned = _learned(param, carry.states.shape[0], self.after, sizes)
    goes_on_B11 = carry.of_same(place)[:, :, None]
    return jnp.where(goes_on_B11, carry.states, learned.astype(sizes.dtype))

  def keep(self, param, carry, last, place):
    normed = self.norm(within(param, 'norm'), last).astype(last.dtype)
    read_B1 = place.document >= 0
    at = place.replace(
      document=jnp.where(read_B1, place.document, carry.at.document),
      offset=jnp.where(read_B1, place.offset, carry.at.offset),
    )
    return Held(jnp.where(read_B1[..., None], normed, carry.states), at)


@dataclasses.dataclass(frozen=True)
class Learned(Around):
  """The same learned tokens after the text of every segment."""

  def last(self, param, carry, place, sizes):
    batch = place.document.shape[0]
    return _learned(param, batch, self.after, sizes)


def check_count(count: int) -> None:
  if count < 1:
    raise ValueError(
      f'model.memory.count = {count} counts memory tokens and must be at least '
      f'1. Published: {PUBLISHED}.'
    )


def _learned(param, batch, count, sizes):
  """They are as large as embedded tokens, and learn as fast."""
  tokens_MD = param('tokens', (count, sizes.width), ('slots', 'width'))
  if sizes.scaled:
    tokens_MD *= sizes.width**0.5
  return jnp.broadcast_to(tokens_MD[None], (batch, count, sizes.width))
