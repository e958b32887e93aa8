"""Stretches that slow each pair of channels by its own measure.

Pair i turns r = trained * theta_i / (2 pi) times while the model reads the
longest text of its training. A pair that turns often tells neighbours apart and
is kept; one that never came full circle would meet angles it has not seen, and
is slowed (Peng et al. 2023, section 3.2). Stretches that share no more than
that stand in `stretch`.
"""

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
class NtkByParts(Stretch):
  """A ramp over r (Peng et al. 2023, section 3.2, definition 2).

  Pairs that turn less than `slow` times are slowed by `factor`, those that turn
  more than `fast` times not at all, those between in part.
  """

  factor: float
  trained: int
  slow: float = 1.0
  fast: float = 32.0

  def __post_init__(self):
    super().__post_init__()
    _check_order(self, 'slow', 'fast')

  def frequencies(self, width, base):
    bounds = self.slow, self.fast
    return Frequencies(_by_turns(self, plain(width, base), bounds))


@dataclasses.dataclass(frozen=True)
class Llama3(Stretch):
  """As `NtkByParts` from `low` to `high` turns (Llama 3.1, reference code).

  Published: factor 8, trained 8192, base 500000.
  """

  factor: float
  trained: int
  low: float = 1.0
  high: float = 4.0

  def __post_init__(self):
    super().__post_init__()
    _check_order(self, 'low', 'high')

  def frequencies(self, width, base):
    bounds = self.low, self.high
    return Frequencies(_by_turns(self, plain(width, base), bounds))


@dataclasses.dataclass(frozen=True)
class Yarn(Stretch):
  """YaRN as its authors' code has it (Peng et al. 2023, sections 3.2 and 3.4).

  The ramp runs over the number i of a pair, from the one that turns `fast`
  times to the one that turns `slow` times; `truncate` widens it to whole
  numbers. Cosines and sines are multiplied by m(1), where m(x) = 1 + 0.1 x
  ln(factor); by m(mscale) / m(mscale_all_dim) where both are given, as for
  DeepSeek-V2; or by `attention_factor`, if that is given.
  """

  factor: float
  trained: int
  fast: float = 32.0
  slow: float = 1.0
  attention_factor: float | None = None
  mscale: float | None = None
  mscale_all_dim: float | None = None
  truncate: bool = True

  def __post_init__(self):
    super().__post_init__()
    _check_order(self, 'slow', 'fast')
    check_positive(self, 'attention_factor', 'mscale', 'mscale_all_dim')
    scales = (self.mscale, self.mscale_all_dim)
    if scales.count(None) == 1:
      raise ValueError(
        f'model.position.stretch.mscale = {self.mscale} and model.position.'
        f'stretch.mscale_all_dim = {self.mscale_all_dim} go together: '
        'published codes disagree on what one alone means. Give both, or set '
        'model.position.stretch.attention_factor.'
      )
    if self.attention_factor is not None and self.mscale is not None:
      raise ValueError(
        f'model.position.stretch.attention_factor = {self.attention_factor} '
        f'leaves model.position.stretch.mscale = {self.mscale} and '
        f'mscale_all_dim = {self.mscale_all_dim} without effect. Give one or '
        'the other.'
      )

  def frequencies(self, width, base):
    low, high = self._ramp(width, base)
    share = np.clip((np.arange(width // 2) - low) / (high - low), 0, 1)
    theta = _slowed(plain(width, base), self.factor, share)
    return Frequencies(theta, self._attention_factor())

  def _ramp(self, width, base):
    """The pairs where it begins and ends."""
    slope = 2 * math.log(base)
    low, high = (
      width * math.log(self.trained / (turns * 2 * math.pi)) / slope
      for turns in (self.fast, self.slow)
    )
    if self.truncate:
      low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if high < low:  # published code then slows the wrong pairs
      raise ValueError(
        f'model.position.stretch.trained = {self.trained} is a length in which '
        f'no pair of channels turns between model.position.stretch.slow = '
        f'{self.slow} and fast = {self.fast} times (rotated channels: {width}, '
        f'base: {base}). Set trained to the length that the model was trained '
        'with, or use model.position.stretch=linear.'
      )
    return low, high + 0.001 if high == low else high

  def _attention_factor(self):
    if self.attention_factor is not None:
      return float(self.attention_factor)
    if self.mscale is None:
      return self._m(1.0)
    return self._m(self.mscale) / self._m(self.mscale_all_dim)

  def _m(self, scale):
    return 0.1 * scale * math.log(self.factor) + 1


def _by_turns(stretch, theta, bounds) -> np.ndarray:
  """Slowed by how often each pair turns in a text of training."""
  slow, fast = bounds
  turns = stretch.trained * theta / (2 * math.pi)
  share = 1 - np.clip((turns - slow) / (fast - slow), 0, 1)
  return _slowed(theta, stretch.factor, share)


def _slowed(theta, factor, share) -> np.ndarray:
  """(1 - share) theta + share theta / factor; exactly theta for a factor 1."""
  return theta * (1 - share * (1 - 1 / factor))


def _check_order(stretch, slow: str, fast: str) -> None:
  first, second = getattr(stretch, slow), getattr(stretch, fast)
  if not 0 < first < second:
    raise ValueError(
      f'model.position.stretch.{slow} = {first} and model.position.stretch.'
      f'{fast} = {second} count turns: the first must be above 0 and the '
      'second above the first.'
    )
