"""Patterns in which some tokens see, or are seen by, far ones."""

import dataclasses
from collections.abc import Callable

from lctx.patterns.base import Pattern
from lctx.types import GLOBAL, PREFIX, Array, Coords, of_keys, of_queries


@dataclasses.dataclass(frozen=True)
class Chosen(Pattern):
  """The first `first` tokens of each document; None = those of a role."""

  first: int | None = None

  def __post_init__(self):
    if self.first is not None and self.first < 1:
      raise ValueError(
        f'{type(self).__name__}(first={self.first}) counts the first tokens of '
        'a document and must be at least 1. Use none to choose them by their '
        'role.'
      )

  @property
  def by_role(self):
    return self.first is None

  def _chosen(
    self,
    at: Coords,
    beside: Callable[[Array], Array] = lambda x: x,
    bit: int = GLOBAL,
  ) -> Array:
    """The tokens that are meant, [B, L], or beside a block of logits."""
    if self.by_role:
      return beside(at.role) & bit != 0
    return beside(at.offset) < self.first


@dataclasses.dataclass(frozen=True)
class GlobalTokens(Chosen):
  """Global tokens see all and are seen by all (Beltagy et al. 2020, 3.1).

  They are the first `first` of each document, or, with None, those whose role
  has the GLOBAL bit. Longformer: `Window(w, w) | GlobalTokens()`.
  """

  def allowed(self, q_at, k_at, heads_N):
    of_k = self._chosen(k_at, of_keys, GLOBAL)
    return self._chosen(q_at, of_queries, GLOBAL) | of_k


@dataclasses.dataclass(frozen=True)
class Prefix(Chosen):
  """Tokens of the prefix see each other (Raffel et al. 2020, 3.2.1).

  The prefix is the first `first` tokens of each document, or, with None, those
  whose role has the PREFIX bit. A prefix language model: `Causal() | Prefix()`.
  """

  def allowed(self, q_at, k_at, heads_N):
    of_k = self._chosen(k_at, of_keys, PREFIX)
    return self._chosen(q_at, of_queries, PREFIX) & of_k


@dataclasses.dataclass(frozen=True)
class NotGlobal(Chosen):
  """No key that is global: those are seen in another way."""

  def allowed(self, q_at, k_at, heads_N):
    return ~self._chosen(k_at, of_keys)

  def chosen(self, at: Coords) -> Array:
    """Which tokens are global: bool [B, L]."""
    return self._chosen(at)
