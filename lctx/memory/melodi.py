"""Melodi: a short memory in every layer, and a long one made of few tokens.

Chen et al. 2024, section 3.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from lctx.kernels.choose import attended
from lctx.kernels.source import Source
from lctx.layers.norm import Norm, RMSNorm
from lctx.layers.parameters import within
from lctx.memory.base import Memory, check_sees_all
from lctx.memory.carriers import HIDDEN, PROJECTED, Hidden
from lctx.memory.gates import ElementGate, MemoryGate
from lctx.memory.held import Held, Segment, place, pushed, where
from lctx.memory.tokens import Learned
from lctx.patterns.base import Everything, visible
from lctx.types import Array, segment_coords


@dataclasses.dataclass(frozen=True)
class LongMemory:
  """`step` tokens of each segment, until `slots` are full; the oldest go.

  `gate` joins what attention to these recalls, without positions, to the rest.
  """

  slots: int = 4096
  step: int = 32
  gate: MemoryGate = dataclasses.field(default_factory=ElementGate)

  def __post_init__(self):
    if not 1 <= self.step <= self.slots:
      raise ValueError(
        f'model.memory.long.step = {self.step} states of a segment must be at '
        f'least 1 and fit into model.memory.long.slots = {self.slots}. '
        'Published: 32 and 4096.'
      )


@dataclasses.dataclass(frozen=True)
class Melodi(Memory):
  """`short` tokens sum up each segment of `segment` tokens, in every layer.

  Behind the text stand `short` summary tokens, learned at the first layer. A
  layer mixes, along the sequence, what it made of text and summary into the
  summary of the next layer and, by other weights, into the memory that it puts
  before the text of the next segment. With a `long` memory it also mixes each
  segment into the tokens of that. A token sees itself, as everywhere here; in
  the published code it does not.

  As published, one layer in the middle has the long memory:
  onlayers(layers=(6,), memory=Melodi(..., long=LongMemory()),
  others=Melodi(...)).
  """

  needs_bptt: ClassVar[bool] = True

  segment: int = 128
  short: int = 64
  long: LongMemory | None = None
  norm: Norm = dataclasses.field(default_factory=RMSNorm)
  carrier: Hidden = HIDDEN

  def __post_init__(self):
    for name in ('segment', 'short'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'model.memory.{name} = {getattr(self, name)} must be at least 1. '
          'Published: segment 512, short 64 to 192.'
        )

  @property
  def length(self):
    return self.short

  @property
  def _slots(self):
    return self.long.slots if self.long else 0

  @property
  def multiple(self):
    return self.segment

  @property
  def around(self):
    return Learned(0, self.short)

  def check(self, sizes, pattern, heads):
    check_sees_all(self, pattern)

  def check_segment(self, segment, field):
    if segment != self.segment:
      raise ValueError(
        f'{field} = {segment}, but model.memory.segment = {self.segment}: its '
        'weights mix tokens by their place in the segment. Make them equal.'
      )

  def flops(self, sizes, segment):
    step = self.long.step if self.long else 0
    mixed = sizes.width * (2 * self.short + step)
    recalled = 2 * sizes.num_heads * sizes.head_width * self._slots
    projected = 2 * sizes.width * sizes.key_heads * sizes.head_width
    read = (mixed + recalled) * (segment + self.short)
    return 2.0 * (read + projected * (self.short + step)) / segment

  def initial(self, batch, sizes, dtype):
    return tuple(
      self.carrier.empty(batch, slots, sizes, dtype)
      for slots in (self.short, self._slots)
    )

  def sources(self, param, carry, near, layer):
    short, _ = carry
    k, v = self.carrier.keys_and_values(short.states, layer)
    return (near.after(k, v, short.at),)

  def mix(self, param, carry, y, layer):
    _, long = carry
    at = layer.tokens.at
    if not self.long or not at.length:
      return y, carry
    k, v = self.carrier.keys_and_values(long.states, layer)
    k = k[..., : y.shape[-1]]
    near = layer.near
    far = Source(near.q, k, v, at, long.at, near.placeless, Everything())
    any_BT = visible(Everything(), at, long.at, None)[0].any(axis=-1)
    recalled = attended((far,)).astype(y.dtype)
    joined = self.long.gate(within(param, 'gate'), y, recalled)
    return jnp.where(any_BT[:, :, None, None], joined, y), carry

  def leave(self, param, segment):
    now = place(segment.text.at)
    return self._added(within(param, 'summary'), segment, now)

  def write(self, param, carry, segment, layer):
    short, long = carry
    now = place(segment.text.at, short.at)
    read_B = segment.filled > 0
    made = self._added(within(param, 'short'), segment, now)
    made = self.carrier.of_states(made, layer)
    sat = segment_coords(
      jnp.repeat(now.document, self.short, axis=1), -self.short
    ).replace(offset=jnp.repeat(now.offset, self.short, axis=1))
    new_short = _chosen(read_B, Held(made, sat), short)
    if self.long:
      own, text = within(param, 'long'), segment.text
      made = self._mixed(
        own, text.y, segment.after, text.at, now, self.long.step
      )
      made = self.carrier.of_states(made, layer)
      document = jnp.repeat(now.document, self.long.step, axis=1)
      queue = pushed(long, made, segment_coords(document))
      long = _chosen(read_B, queue, long)
    return (new_short, long), jnp.zeros((), jnp.float32)

  def for_inference(self):
    return dataclasses.replace(self, carrier=PROJECTED)

  def _added(self, param, segment: Segment, now) -> Array:
    """The summary, and what text and summary add to it: [B, short, D]."""
    at, text = segment.text.at, segment.text.y
    text = self.norm(within(param, 'text_norm'), text)
    summary = self.norm(within(param, 'summary_norm'), segment.after)
    mixed = self._mixed(param, text, summary, at, now, self.short)
    return segment.after + mixed

  def _mixed(self, param, x, after, at, now, count) -> Array:
    """The last document's text x, and `after` it, in `count` sums over both."""
    of_last_BT = (at.document == now.document) & (at.document >= 0)
    x = jnp.where(of_last_BT[..., None], x, 0)
    both = jnp.concatenate([x, after], axis=1)
    init = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
    shape = self.segment + self.short, count
    kernel_TM = param('kernel', shape, (None, None), init)
    bias_M = param('bias', (count,), (None,), nn.initializers.zeros)
    mixed = jnp.einsum('btd,tm->bmd', both, kernel_TM.astype(both.dtype))
    return mixed + bias_M.astype(both.dtype)[None, :, None]


def _chosen(rows_B: Array, new: Held, old: Held) -> Held:
  """`new` in the rows that read something, slots in the same places."""
  new = new.replace(at=new.at.replace(start=old.at.start))
  return where(rows_B, new, old)
