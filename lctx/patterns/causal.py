"""Patterns that never look ahead."""

import dataclasses

from lctx.patterns.base import Pattern, Reach
from lctx.types import distance, of_keys, of_queries


@dataclasses.dataclass(frozen=True)
class Causal(Pattern):
  """The query itself and everything before it."""

  is_reach = True

  def allowed(self, q_at, k_at, heads_N):
    return distance(q_at, k_at) >= 0

  @property
  def reach(self):
    return Reach(after=0)


@dataclasses.dataclass(frozen=True)
class Staircase(Pattern):
  """Transformer-XL's default: a segment, and `before` steps before it.

  Every query of a segment sees as far back as its first one, so the view is
  a staircase with segments as treads (Dai et al. 2019, the published mask).
  """

  before: int

  def allowed(self, q_at, k_at, heads_N):
    steps = distance(q_at, k_at)
    behind_start = of_queries(q_at.segment) - of_keys(k_at.index)
    return (steps >= 0) & (behind_start <= self.before)

  @property
  def reach(self):
    return Reach(after=0)


@dataclasses.dataclass(frozen=True)
class Sinks(Pattern):
  """The first `count` tokens of each document, once they are behind.

  Attention sinks (Xiao et al. 2023): `Window(before) | Sinks(4)`. A key that
  memory has let go is seen no more.
  """

  count: int

  def __post_init__(self):
    if self.count < 1:
      raise ValueError(
        f'Sinks(count={self.count}) counts the first tokens of a document that '
        'every query goes on seeing, so it must be at least 1. Published: 4.'
      )

  def allowed(self, q_at, k_at, heads_N):
    return (distance(q_at, k_at) >= 0) & (of_keys(k_at.offset) < self.count)

  @property
  def reach(self):
    return Reach(after=0)
