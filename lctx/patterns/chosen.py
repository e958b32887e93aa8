"""Patterns in which some tokens see, or are seen by, far ones."""

import dataclasses
import functools
from collections.abc import Callable

from lctx.patterns.base import Pattern
from lctx.types import GLOBAL, PREFIX, Array, Coords, of_keys, of_queries


@dataclasses.dataclass(frozen=True)
class GlobalTokens(Pattern):
  """Global tokens see all and are seen by all (Beltagy et al. 2020, 3.1).

  They are the first `first` of each document, or, with None, those whose role
  has the GLOBAL bit. Longformer: `Window(w, w) | GlobalTokens()`.
  """

  first: int | None = None

  def __post_init__(self):
    _check('GlobalTokens', self.first)

  def allowed(self, q_at, k_at, heads_N):
    chosen = functools.partial(_chosen, first=self.first, bit=GLOBAL)
    return chosen(q_at, of_queries) | chosen(k_at, of_keys)


@dataclasses.dataclass(frozen=True)
class Prefix(Pattern):
  """Tokens of the prefix see each other (Raffel et al. 2020, 3.2.1).

  The prefix is the first `first` tokens of each document, or, with None, those
  whose role has the PREFIX bit. A prefix language model: `Causal() | Prefix()`.
  """

  first: int | None = None

  def __post_init__(self):
    _check('Prefix', self.first)

  def allowed(self, q_at, k_at, heads_N):
    chosen = functools.partial(_chosen, first=self.first, bit=PREFIX)
    return chosen(q_at, of_queries) & chosen(k_at, of_keys)


def _chosen(
  at: Coords, beside: Callable[[Array], Array], first: int | None, bit: int
) -> Array:
  """Beside a block of logits: the tokens that are meant."""
  if first is None:
    return beside(at.role) & bit != 0
  return beside(at.offset) < first


def _check(name: str, first: int | None) -> None:
  if first is not None and first < 1:
    raise ValueError(
      f'{name}(first={first}) counts the first tokens of a document and must '
      'be at least 1. Use none to choose them by their role.'
    )
