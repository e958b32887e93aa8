"""Positions that differ from layer to layer."""

import dataclasses

from lctx.positions.base import Position


@dataclasses.dataclass(frozen=True)
class LayerPositions(Position):
  """Layer i has `each[i]`, and begins again after the last of them.

  Of schemes that act on queries and keys. Gemma 3: five layers turn by a base
  of 10,000 and one by 1,000,000, in turn; Rope(1e6) is `each[5]` there.
  """

  each: tuple[Position, ...]

  def __post_init__(self):
    absolute = [x for x in self.each if type(x).embed is not Position.embed]
    if absolute or not self.each:
      raise ValueError(
        f'LayerPositions(each={self.each}) needs at least one scheme, and none '
        'that is added to tokens before the first layer. Use relative ones, '
        'such as rope.'
      )

  def of_layers(self, depth):
    return tuple(
      position
      for i in range(depth)
      for position in self.each[i % len(self.each)].of_layers(1)
    )

  def declared(self, length):
    return LayerPositions(tuple(x.declared(length) for x in self.each))

  def check(self, sizes):
    for position in self.each:
      position.check(sizes)
