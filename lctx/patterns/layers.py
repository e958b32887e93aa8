"""Patterns that differ from layer to layer."""

import dataclasses
import functools

from lctx.patterns.base import Pattern, widest


@dataclasses.dataclass(frozen=True)
class LayerPatterns(Pattern):
  """Layer i has pattern `each[i]`, and begins again after the last of them.

  Gemma 3: five layers with a window and one without, in turn; that is
  LayerPatterns((Window(511),) * 5 + (Causal(),)).
  """

  each: tuple[Pattern, ...]

  def __post_init__(self):
    if not self.each:
      raise ValueError(
        'LayerPatterns(each=()) has no pattern for any layer. Give at least '
        'one.'
      )

  def allowed(self, q_at, k_at, heads_N):
    raise TypeError('a layer has one of these patterns: ask of_layers')

  def of_layers(self, depth):
    return tuple(
      pattern
      for i in range(depth)
      for pattern in self.each[i % len(self.each)].of_layers(1)
    )

  def of_length(self, length):
    return LayerPatterns(tuple(x.of_length(length) for x in self.each))

  @property
  def counts(self):
    return any(pattern.counts for pattern in self.each)

  @property
  def reach(self):
    return functools.reduce(widest, (x.reach for x in self.each))

  @property
  def by_role(self):
    return any(pattern.by_role for pattern in self.each)

  def check_heads(self, num_heads):
    for pattern in self.each:
      pattern.check_heads(num_heads)
