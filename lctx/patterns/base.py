"""The seam of patterns: what a query may see, and how patterns combine."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from lctx.types import Array, Coords


class Reach(NamedTuple):
  """Steps behind and ahead of a query; None = without limit."""

  before: int | None = None
  after: int | None = None


@dataclasses.dataclass(frozen=True)
class Pattern:
  """`allowed` is the truth, [B or 1, T, S]; documents are seen to apart."""

  def allowed(self, q_at: Coords, k_at: Coords) -> Array:
    raise NotImplementedError

  @property
  def reach(self) -> 'Reach':
    """How far any query may see; kernels skip what lies beyond."""
    return Reach()

  def __and__(self, other: 'Pattern') -> 'Pattern':
    return Both(self, other)


@dataclasses.dataclass(frozen=True)
class Both(Pattern):
  """What both patterns allow."""

  first: Pattern
  second: Pattern

  def allowed(self, q_at, k_at):
    return self.first.allowed(q_at, k_at) & self.second.allowed(q_at, k_at)

  @property
  def reach(self):
    return Reach(*map(_least, self.first.reach, self.second.reach))


@dataclasses.dataclass(frozen=True)
class Everything(Pattern):
  """Every key."""

  def allowed(self, q_at, k_at):
    return jnp.ones((1, q_at.length, k_at.length), bool)


def visible(pattern: Pattern, q_at: Coords, k_at: Coords) -> Array:
  """[B, T, S]: allowed, and of the same document; empty slots never are."""
  same = q_at.document[:, :, None] == k_at.document[:, None, :]
  held = (k_at.document >= 0)[:, None, :]
  return pattern.allowed(q_at, k_at) & same & held


def _least(first: int | None, second: int | None) -> int | None:
  return min((x for x in (first, second) if x is not None), default=None)
