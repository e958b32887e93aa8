"""The seam of patterns: what a query may see, and how patterns combine."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from lctx.types import (
  Array,
  Coords,
  distance,
  of_keys,
  of_queries,
  segment_coords,
)


class Reach(NamedTuple):
  """Steps behind and ahead of a query; None = without limit."""

  before: int | None = None
  after: int | None = None


class Times(NamedTuple):
  """Float32 numbers of each query and each key, to be multiplied."""

  of_query: Array  # [B or 1, T]
  of_key: Array  # [B or 1, S]


@dataclasses.dataclass(frozen=True)
class Pattern:
  """What a query may see; documents and empty slots are seen to apart.

  Patterns combine: `a & b` is what both allow, `a | b` what either does.
  """

  is_reach: ClassVar[bool] = False  # it allows every key within its reach

  def __init_subclass__(cls, **kwargs):
    super().__init_subclass__(**kwargs)
    if 'allowed' in vars(cls) and 'is_reach' not in vars(cls):
      cls.is_reach = False  # whatever it was for the rule it had before

  def allowed(self, q_at: Coords, k_at: Coords, heads_N: Array) -> Array:
    """The truth: bool [N or 1, B or 1, T, S]. `heads_N` numbers the heads."""
    raise NotImplementedError

  def of_layers(self, depth: int) -> tuple['Pattern', ...]:
    """The pattern of each layer of a stack."""
    return (self,) * depth

  def of_length(self, length: int) -> 'Pattern':
    """The pattern of segments with so many tokens of text."""
    return self

  @property
  def counts(self) -> bool:
    """Whether queries count some keys more than once, as `times` says."""
    return False

  def times(self, q_at: Coords, k_at: Coords) -> tuple[Times, ...]:
    """How often a query counts each key that it sees; () = once.

    The sum of their products is the logarithm of that.
    """
    return ()

  @property
  def reach(self) -> Reach:
    """How far any query may see; kernels skip what lies beyond."""
    return Reach()

  @property
  def stride(self) -> tuple[int, ...]:
    """For each head, the distance of which all it sees are multiples.

    () = every distance, whatever the head.
    """
    return ()

  def tables(self, heads_N: Array) -> Any:
    """What `allowed` looks up: a pytree of arrays [N or 1, rows, columns].

    A kernel that can hold no constants reads them as it reads keys, those of
    one head at a time, and gives `given` its way to look each up.
    """
    return ()

  def given(self, look_ups: Any) -> 'Pattern':
    """The same by these `tables.LookUp`s, in the place of each table."""
    return self

  @property
  def by_role(self) -> bool:
    """Whether it asks for the roles of tokens, which data must give."""
    return False

  def check_heads(self, num_heads: int) -> None:
    """Raises ValueError where it cannot serve that many heads."""

  def __and__(self, other: 'Pattern') -> 'Pattern':
    return Both(self, other)

  def __or__(self, other: 'Pattern') -> 'Pattern':
    return Either(self, other)


@dataclasses.dataclass(frozen=True)
class _Pair(Pattern):
  first: Pattern
  second: Pattern

  def of_layers(self, depth):
    layers = zip(self.first.of_layers(depth), self.second.of_layers(depth))
    return tuple(type(self)(*pair) for pair in layers)

  def of_length(self, length):
    pair = self.first.of_length(length), self.second.of_length(length)
    return type(self)(*pair)

  @property
  def counts(self):
    return self.first.counts or self.second.counts

  def times(self, q_at, k_at):
    return self.first.times(q_at, k_at) + self.second.times(q_at, k_at)

  def tables(self, heads_N):
    return self.first.tables(heads_N), self.second.tables(heads_N)

  def given(self, look_ups):
    first, second = look_ups
    return type(self)(self.first.given(first), self.second.given(second))

  @property
  def by_role(self):
    return self.first.by_role or self.second.by_role

  def check_heads(self, num_heads):
    self.first.check_heads(num_heads)
    self.second.check_heads(num_heads)


@dataclasses.dataclass(frozen=True)
class Both(_Pair):
  """What both patterns allow."""

  def allowed(self, q_at, k_at, heads_N):
    first = self.first.allowed(q_at, k_at, heads_N)
    return first & self.second.allowed(q_at, k_at, heads_N)

  @property
  def reach(self):
    return Reach(*map(_least, self.first.reach, self.second.reach))

  @property
  def is_reach(self):
    return self.first.is_reach and self.second.is_reach

  @property
  def stride(self):
    return self.first.stride or self.second.stride


@dataclasses.dataclass(frozen=True)
class Either(_Pair):
  """What at least one of two patterns allows."""

  def allowed(self, q_at, k_at, heads_N):
    first = self.first.allowed(q_at, k_at, heads_N)
    return first | self.second.allowed(q_at, k_at, heads_N)

  @property
  def reach(self):
    return widest(self.first.reach, self.second.reach)


@dataclasses.dataclass(frozen=True)
class Everything(Pattern):
  """Every key, ahead and behind: bidirectional attention."""

  is_reach = True

  def allowed(self, q_at, k_at, heads_N):
    return jnp.ones_like(distance(q_at, k_at), bool)


def visible(
  pattern: Pattern, q_at: Coords, k_at: Coords, heads_N: Array
) -> Array:
  """bool [N or 1, B, T, S]: allowed, of the same document, and not empty."""
  same = of_queries(q_at.document) == of_keys(k_at.document)
  held = of_keys(k_at.document) >= 0
  return pattern.allowed(q_at, k_at, heads_N) & same & held


def picture(
  pattern: Pattern, length: int, head: int = 0, at: Coords | None = None
) -> list[str]:
  """A line a query, `#` where it sees a key: ['#..', '##.', '###'].

  `at` says where the tokens sit, by default in one document; row 0 is drawn.
  """
  if at is None:
    at = segment_coords(jnp.zeros((1, length), jnp.int32))
  pattern = pattern.of_length(length)
  return drawn(visible(pattern, at, at, jnp.array([head]))[0, 0])


def drawn(seen_TS: Array) -> list[str]:
  """A line a query, `#` where it sees a key."""
  return [''.join('.#'[int(cell)] for cell in row) for row in seen_TS]


def widest(first: Reach, second: Reach) -> Reach:
  """What reaches as far as both, on each side."""
  return Reach(*map(_most, first, second))


def _least(first: int | None, second: int | None) -> int | None:
  return min((x for x in (first, second) if x is not None), default=None)


def _most(first: int | None, second: int | None) -> int | None:
  return None if None in (first, second) else max(first, second)
