"""Transformer-XL's cache: the last states before the segment.

Dai et al. 2019, section 3.2. It begins empty and masked (the published
PyTorch code grows it from nothing, the TensorFlow code attends to zeros).
Where gradients stop is the segment scan's affair, not the cache's.
"""

import dataclasses

import jax.numpy as jnp

from lctx.memory.base import Memory
from lctx.memory.carriers import HIDDEN, PROJECTED, Hidden
from lctx.memory.held import pushed
from lctx.patterns.window import Window


@dataclasses.dataclass(frozen=True)
class XLCache(Memory):
  """The last `length` states; `carrier` says whether as they came or projected.

  `same_length`: every query sees exactly `length` keys, itself included,
  instead of the whole memory and its segment so far (the staircase).
  """

  length: int = 128
  same_length: bool = False
  carrier: Hidden = HIDDEN

  def __post_init__(self):
    if self.length < 0:
      raise ValueError(
        f'model.memory.length = {self.length} counts states kept from earlier '
        'segments, so it cannot be negative. Use 0 for no memory.'
      )
    if self.same_length and self.length < 1:
      raise ValueError(
        'model.memory.same_length = true lets every query see model.memory.'
        f'length keys, but that is {self.length}. Give it at least 1, or turn '
        'same_length off.'
      )

  def check(self, sizes, pattern, heads):
    if self.same_length and pattern.reach.after != 0:
      raise ValueError(
        f'model.pattern = {pattern} looks ahead, but model.memory.same_length '
        '= true lets every query see as many keys back, and none ahead. Turn '
        'same_length off, or use model.pattern=causal.'
      )

  def patterns(self, pattern):
    return (pattern & Window(self.length - 1) if self.same_length else pattern,)

  def initial(self, batch, sizes, dtype):
    return self.carrier.empty(batch, self.length, sizes, dtype)

  def sources(self, param, carry, near, layer):
    if self.length == 0:
      return (near,)
    k_BMNH, v_BMNH = self.carrier.keys_and_values(carry.states, layer)
    return (near.after(k_BMNH, v_BMNH, carry.at),)

  def write(self, param, carry, segment, layer):
    text = segment.text
    carry = pushed(carry, self.carrier.of_segment(text), text.at)
    return carry, jnp.zeros((), jnp.float32)

  def for_inference(self):
    return dataclasses.replace(self, carrier=PROJECTED)
