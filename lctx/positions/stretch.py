"""Stretches: how far rotary frequencies are slowed to read longer texts.

d channels rotate in d / 2 pairs; pair i turns theta_i = base^(-2i / d) radians
a token (Su et al. 2021, section 3.2.2). These stretches have one rule for all
pairs; `stretch_parts` and `stretch_longrope` treat each by itself.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

_LEAST = {'factor': 1, 'trained': 2, 'length': 1}
_MEANING = {
  'factor': 'how many times longer texts become',
  'trained': 'the number of tokens that the model was trained to read',
  'length': 'the number of tokens that a call reads and writes',
}


class Frequencies(NamedTuple):
  """How positions turn queries and keys."""

  theta: np.ndarray  # float64 [d / 2], radians a token
  attention_factor: float = 1.0  # of cosines and sines; logits get its square


@dataclasses.dataclass(frozen=True)
class Stretch:
  """Frequencies for texts longer than those of training; others refine it.

  In all of them `factor` is the new length over the old one, where 1 changes
  nothing, and `trained` the old one in tokens. Each raises ValueError, naming
  the field, when built.
  """

  def __post_init__(self):
    for name, least in _LEAST.items():
      value = getattr(self, name, None)
      if value is not None and not value >= least:
        raise ValueError(
          f'model.position.stretch.{name} = {value} is {_MEANING[name]}: it '
          f'must be at least {least}.'
        )

  def frequencies(self, width: int, base: float) -> Frequencies:
    """Those of `width` rotated channels; float64, made without JAX.

    Raises ValueError where the stretch cannot serve that width.
    """
    raise NotImplementedError

  def declared(self, length: int) -> 'Stretch':
    """The same for a call that reads and writes `length` tokens in all.

    Frequencies stay fixed during a call. If they changed with each new token,
    what is cached of lower layers would be of other frequencies, and decoding
    would differ from reading at once.
    """
    return self


@dataclasses.dataclass(frozen=True)
class Plain(Stretch):
  """None: as trained."""

  def frequencies(self, width, base):
    return Frequencies(plain(width, base))


@dataclasses.dataclass(frozen=True)
class Linear(Stretch):
  """Position Interpolation (Chen et al. 2023, section 3.2): theta / factor."""

  factor: float

  def frequencies(self, width, base):
    return Frequencies(plain(width, base) / self.factor)


@dataclasses.dataclass(frozen=True)
class NtkAware(Stretch):
  """A larger base (Peng et al. 2023, section 3.1, after bloc97).

  base * factor^(d / (d - 2)): the fastest pair stays, the slowest is divided
  by `factor`.
  """

  factor: float

  def frequencies(self, width, base):
    return Frequencies(plain(width, enlarged(base, self.factor, width)))


@dataclasses.dataclass(frozen=True)
class DynamicNtk(Stretch):
  """NTK-aware, by the length of the text (Peng et al. 2023, section 3.3).

  In place of the factor of `NtkAware` stands factor * length / trained -
  (factor - 1) once `length` exceeds `trained`; up to there all is as trained.
  So a `factor` of 1 stretches too: to just the length. `length` is declared,
  as `declared` says.
  """

  factor: float
  trained: int
  length: int

  def frequencies(self, width, base):
    longer = max(self.length, self.trained) / self.trained - 1
    grown = enlarged(base, 1 + self.factor * longer, width)
    return Frequencies(plain(width, grown))

  def declared(self, length):
    return dataclasses.replace(self, length=length)


def plain(width: int, base: float) -> np.ndarray:
  """theta_i = base^(-2i / d) for i below d / 2; float64."""
  return float(base) ** (-np.arange(0, width, 2) / width)


def enlarged(base: float, factor: float, width: int) -> float:
  """The base with which the slowest of d / 2 pairs turns `factor` slower."""
  if width < 4:
    raise ValueError(
      f'model.position rotates {width} channels, one pair, but model.position.'
      'stretch = ntkaware and dynamicntk slow the last pair and keep the first '
      'one. Rotate at least 4 channels (model.stack.head_width, model.position.'
      'share), or use model.position.stretch=linear.'
    )
  return base * factor ** (width / (width - 2))


def check_positive(stretch: Stretch, *names: str) -> None:
  """Raises ValueError for a field that is given and not above 0."""
  for name in names:
    value = getattr(stretch, name)
    if value is not None and not value > 0:
      raise ValueError(
        f'model.position.stretch.{name} = {value} is a factor and must be '
        'above 0. Remove it to have the published one.'
      )
