"""Attention sinks: the first tokens of a document, and its last ones.

Xiao et al. 2023 (StreamingLLM).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from lctx.memory.base import (
  Memory,
  check_no_adaptive,
  check_one_way,
  check_sees_all,
)
from lctx.memory.carriers import HIDDEN, PROJECTED, Hidden
from lctx.memory.held import Held, place, pushed
from lctx.patterns.base import Pattern, Reach
from lctx.patterns.window import Window
from lctx.types import EMPTY, Coords, distance


@dataclasses.dataclass(frozen=True)
class SinkCache(Memory):
  """Queries see `recent` keys, themselves included, and `sinks` first ones.

  Distances are between places in that cache, not in the text: however long the
  text is, a query is never more than sinks + recent - 1 steps from the first
  key. Keys are held before rotation. What is seen moves on token by token, so a
  text may be cut anywhere, into segments of at most `recent` tokens.
  """

  in_order: ClassVar[bool] = False

  recent: int = 1020
  sinks: int = 4
  carrier: Hidden = HIDDEN

  def __post_init__(self):
    if self.recent < 2 or self.sinks < 1:
      raise ValueError(
        f'model.memory.recent = {self.recent} counts the last tokens that are '
        f'kept, at least 2, and model.memory.sinks = {self.sinks} the first '
        'ones, at least 1. Published: 4 sinks, and as many recent tokens as '
        'make up, with them, what the model was trained to see.'
      )

  @property
  def length(self):
    return self.recent + self.sinks

  def check_segment(self, segment, field):
    if segment > self.recent:
      raise ValueError(
        f'{field} = {segment} is longer than model.memory.recent = '
        f'{self.recent}, and a document that begins in a segment needs all of '
        'it. Use shorter segments, or set model.memory.recent higher.'
      )

  def check(self, sizes, pattern, heads):
    check_one_way(self, pattern)
    check_sees_all(self, pattern)
    check_no_adaptive(self, heads, 'counts places in a cache, not in the text')

  def patterns(self, pattern):
    return pattern & Window(self.recent - 1), Beyond(self.recent)

  def flops(self, sizes, segment):
    return 4.0 * sizes.num_heads * sizes.head_width * self.sinks

  def initial(self, batch, sizes, dtype):
    return tuple(
      self.carrier.empty(batch, slots, sizes, dtype)
      for slots in (self.recent - 1, self.sinks)
    )

  def sources(self, param, carry, near, layer):
    recent, sinks = carry
    k, v = self.carrier.keys_and_values(recent.states, layer)
    first_k, first_v = self.carrier.keys_and_values(sinks.states, layer)
    offset = near.q_at.offset
    last = self.sinks + self.recent - 1
    far = near.replace(
      k=first_k.astype(near.k.dtype),
      v=first_v.astype(near.v.dtype),
      q_at=_at(near.q_at, offset, jnp.minimum(offset, last)),
      k_at=_at(sinks.at, *(_numbers(sinks.at),) * 2),
      pattern=Beyond(self.recent),
    )
    return near.after(k, v, recent.at), far

  def write(self, param, carry, segment, layer):
    recent, sinks = carry
    text = segment.text
    states = self.carrier.of_segment(text)
    now = place(text.at, recent.at)
    carry = (
      pushed(recent, states, text.at),
      _first(sinks, states, text.at, now),
    )
    return carry, jnp.zeros((), jnp.float32)

  def for_inference(self):
    return dataclasses.replace(self, carrier=PROJECTED)


@dataclasses.dataclass(frozen=True)
class Beyond(Pattern):
  """Keys at least `steps` behind the query."""

  steps: int

  def allowed(self, q_at, k_at, heads_N):
    return distance(q_at, k_at) >= self.steps

  @property
  def reach(self):
    return Reach(after=0)


def _first(sinks: Held, states, at: Coords, now: Coords) -> Held:
  """The first tokens of the document that is read `now`, in order."""
  wanted = _numbers(sinks.at)[:, :, None]
  same_B1T = (at.document == now.document)[:, None]
  here_BST = (
    same_B1T & (at.offset[:, None] == wanted) & (now.document >= 0)[:, None]
  )
  slot_BS, found_BS = here_BST.argmax(axis=-1), here_BST.any(axis=-1)
  known_BS = (sinks.at.document == now.document) & (now.document >= 0)

  def taken(old, new):
    got = jax.vmap(lambda row, slots: row[slots])(new, slot_BS)
    rows = found_BS.reshape(*found_BS.shape, *(1,) * (old.ndim - 2))
    return jnp.where(rows, got.astype(old.dtype), old)

  document = jnp.where(found_BS | known_BS, now.document, EMPTY)
  return Held(
    jax.tree.map(taken, sinks.states, states),
    sinks.at.replace(document=document),
  )


def _numbers(at: Coords):
  number_1S = jnp.arange(at.length, dtype=jnp.int32)[None]
  return jnp.zeros_like(at.index) + number_1S


def _at(at: Coords, index, position) -> Coords:
  """Masks go by places in the document, positions by those in the cache."""
  return at.replace(index=index, position=position, start=None)
