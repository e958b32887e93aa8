"""LongRoPE: a stretch whose factors were searched for, pair by pair."""

import dataclasses
import math

import numpy as np

from lctx.positions.stretch import (
  Frequencies,
  Stretch,
  check_positive,
  plain,
)


@dataclasses.dataclass(frozen=True)
class LongRope(Stretch):
  """Searched factors, one for each pair (Ding et al. 2024, section 3).

  Pair i turns theta_i / short[i] while the declared `length` is at most
  `trained`, theta_i / long[i] beyond. Whichever it is, cosines and sines are
  multiplied by sqrt(1 + ln(factor) / ln(trained)), or by `attention_factor`:
  give one of the two. Phi-3's `factor` is its longest length over `trained`.
  """

  short: tuple[float, ...]
  long: tuple[float, ...]
  trained: int
  length: int
  factor: float | None = None
  attention_factor: float | None = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'attention_factor')
    for name in ('short', 'long'):
      wrong = [x for x in getattr(self, name) if not x > 0]
      if wrong:
        raise ValueError(
          f'model.position.stretch.{name} holds {wrong[0]}, but each is by '
          'what a pair of channels turns slower and must be above 0.'
        )
    if (self.factor is None) == (self.attention_factor is None):
      raise ValueError(
        f'model.position.stretch.factor = {self.factor} and model.position.'
        f'stretch.attention_factor = {self.attention_factor}: give one of '
        'them. The second is taken as it is; the first makes it sqrt(1 + '
        'ln(factor) / ln(trained)).'
      )

  def frequencies(self, width, base):
    for name in ('short', 'long'):
      count = len(getattr(self, name))
      if count != width // 2:
        raise ValueError(
          f'model.position.stretch.{name} has {count} factors, but {width} '
          f'rotated channels are {width // 2} pairs. Give one for each pair.'
        )
    searched = self.long if self.length > self.trained else self.short
    theta = plain(width, base) / np.asarray(searched, np.float64)
    if self.attention_factor is not None:
      return Frequencies(theta, float(self.attention_factor))
    more = math.log(self.factor) / math.log(self.trained)
    return Frequencies(theta, math.sqrt(1 + more))

  def declared(self, length):
    return dataclasses.replace(self, length=length)
