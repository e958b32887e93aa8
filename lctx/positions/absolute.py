"""Positions that are added to tokens, counted from the document's beginning.

Attention does not see them otherwise. They end somewhere: what a caller reads
past the limit is refused before it is read; inside a compiled program it
becomes NaN, never a wrong position. Those that restart count from the beginning
of the segment, so only a segment is ever too long: so Bulatov et al. 2024 let a
BERT with memory tokens read on.
"""

import dataclasses

import jax.numpy as jnp

from lctx.positions.base import Position
from lctx.positions.sinusoid import check_even, sinusoid
from lctx.types import Array, Coords


@dataclasses.dataclass(frozen=True)
class NoPosition(Position):
  """None at all: order is known from what a pattern hides."""


@dataclasses.dataclass(frozen=True)
class Learned(Position):
  """A table of `length` vectors, of which token 0 has number `first`.

  Those before it are no token's: RoBERTa and BART have 2 of them. `restarts`:
  with every segment.
  """

  length: int
  first: int = 0
  restarts: bool = False

  def __post_init__(self):
    _check_length(self)
    if not 0 <= self.first < self.length:
      raise ValueError(
        f'model.position.first = {self.first} leaves no token a position: it '
        'must not be negative, and below model.position.length = '
        f'{self.length}.'
      )

  @property
  def limit(self):
    return None if self.restarts else self.segment_limit

  @property
  def segment_limit(self):
    return self.length - self.first

  def embed(self, param, x, at):
    shape, axes = (self.length, x.shape[-1]), ('positions', 'width')
    table_PD = param('table', shape, axes).astype(x.dtype)
    row_BT = _counted(self, at) + self.first
    return x + jnp.take(table_PD, row_BT, axis=0, mode='fill')


@dataclasses.dataclass(frozen=True)
class Sinusoidal(Position):
  """Sines and cosines of the position (Vaswani et al. 2017, section 3.5).

  `length` tokens at most: float32 angles are off by 1e-3 at 20,000 and by a
  radian at 10^7. `restarts`: with every segment.
  """

  length: int = 65_536
  restarts: bool = False

  def __post_init__(self):
    _check_length(self)

  @property
  def limit(self):
    return None if self.restarts else self.length

  @property
  def segment_limit(self):
    return self.length

  def check(self, sizes):
    check_even('model.position = sinusoidal', sizes, 'model.position=learned')

  def embed(self, param, x, at):
    offset_BT = _counted(self, at)
    waves = sinusoid(offset_BT, x.shape[-1])
    inside = (offset_BT < self.length)[..., None]
    return x + jnp.where(inside, waves, jnp.nan).astype(x.dtype)


def _counted(position: Learned | Sinusoidal, at: Coords) -> Array:
  """Tokens [B, T] of its document before each, or of its segment's part."""
  if position.restarts:
    return jnp.minimum(at.offset, at.index - at.segment)
  return at.offset


def _check_length(position) -> None:
  if position.length < 1:
    raise ValueError(
      f'model.position.length = {position.length} counts the tokens of a '
      'document that have a position, and must be at least 1.'
    )
