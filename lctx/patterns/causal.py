"""Patterns that never look ahead."""

import dataclasses

from lctx.patterns.base import Pattern, Reach
from lctx.types import distance


@dataclasses.dataclass(frozen=True)
class Causal(Pattern):
  """The query itself and everything before it."""

  def allowed(self, q_at, k_at):
    return distance(q_at, k_at) >= 0

  @property
  def reach(self):
    return Reach(after=0)


@dataclasses.dataclass(frozen=True)
class Window(Pattern):
  """Keys at most `before` steps behind the query, and the query itself."""

  before: int

  def __post_init__(self):
    if self.before < 0:
      raise ValueError(
        f'Window(before={self.before}) counts steps back, so it cannot be '
        'negative. Use 0 to see only the query itself.'
      )

  def allowed(self, q_at, k_at):
    steps = distance(q_at, k_at)
    return (steps >= 0) & (steps <= self.before)

  @property
  def reach(self):
    return Reach(self.before, after=0)


@dataclasses.dataclass(frozen=True)
class Staircase(Pattern):
  """Transformer-XL's default: a segment, and `before` steps before it.

  Every query of a segment sees as far back as its first one, so the view is
  a staircase with segments as treads (Dai et al. 2019, the published mask).
  """

  before: int

  def allowed(self, q_at, k_at):
    steps = distance(q_at, k_at)
    behind_start = q_at.segment[:, :, None] - k_at.index[:, None, :]
    return (steps >= 0) & (behind_start <= self.before)

  @property
  def reach(self):
    return Reach(after=0)
