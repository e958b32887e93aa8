"""An objective: of a text and a seed, what is read and what is predicted."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from lctx.types import PREFIX


class Text(NamedTuple):
  """What is read and what is predicted there: [n] each, int32 but `weight`."""

  tokens: np.ndarray
  targets: np.ndarray
  weight: np.ndarray  # float32: 0 where the target does not count, else 1
  role: np.ndarray  # bits: PREFIX where tokens see each other both ways


class Pair(NamedTuple):
  """What an encoder reads, int32 [s], and what its decoder reads, [t]."""

  source: np.ndarray
  target: Text  # it reads the start mark, then what it predicted


@dataclasses.dataclass(frozen=True)
class Objective:
  """A pure function: the same text and seed give the same result.

  A field that names a mark is its id, or None for a new one: new ids follow
  the vocabulary and the ids that are given, in the order of `marks`.
  """

  pairs: ClassVar[bool] = False  # whether a call gives a Pair
  in_place: ClassVar[bool] = False  # whether a target is the token itself

  def __post_init__(self):
    for name, count in self.marks().items():
      last = getattr(self, name)
      if last is not None and last < count - 1:
        raise ValueError(
          f'{type(self).__name__}({name}={last}) is the highest of {count} '
          f'ids, and none is below 0. Give at least {count - 1}, or None for '
          'new ids after the vocabulary.'
        )

  def __call__(self, tokens: np.ndarray, seed, vocab: int) -> Text | Pair:
    """Of `tokens`, int [n], made by a tokenizer of `vocab` ids.

    `seed`: an int or a tuple of ints. Raises ValueError for a text that the
    objective cannot use. `tokens` stay as they are.
    """
    raise NotImplementedError

  def asks(self, tokens: np.ndarray) -> bool:
    """Whether rows ask anything of such a text; of a single token, nothing."""
    return len(tokens) > 1

  @property
  def wants(self) -> tuple[str, ...]:
    """Flags a call needs: `begins` of words, `ends` of sentences."""
    return ()

  def lengths(self, count: int) -> tuple[int, int]:
    """Of a text of `count` tokens: those of a source, and those of a target.

    The first is 0 where there is no pair. Random ones may be longer at times.
    """
    raise NotImplementedError

  def check_length(self, count: int) -> None:
    """Raises ValueError where `count` tokens are too long a text for it."""

  def source(self, tokens: np.ndarray) -> np.ndarray:
    """What an encoder reads of a text as it is, int32 [s], with its marks."""
    return np.append(tokens, self.end).astype(np.int32)

  def marks(self) -> dict[str, int]:
    """Fields of marks, and of how many ids each is the highest."""
    return {}

  def with_ids(self, vocab: int) -> Self:
    """The same, with an id in place of each None."""
    given, new = self._given(), {}
    last = max([vocab - 1, *given.values()])
    for name, count in self.marks().items():
      if name not in given:
        last += count
        new[name] = last
    return dataclasses.replace(self, **new)

  def extra(self, vocab: int) -> int:
    """Ids it needs beyond those of the tokenizer: the model has as many more.

    They are counted up to the highest mark.
    """
    last = max(self.with_ids(vocab)._given().values(), default=-1)
    return max(0, last + 1 - vocab)

  def _given(self) -> dict[str, int]:
    ids = {name: getattr(self, name) for name in self.marks()}
    return {name: last for name, last in ids.items() if last is not None}


def check_share(part: Any, name: str, *, zero: bool = True) -> None:
  """Raises ValueError unless the field is from 0, itself if `zero`, to 1."""
  share = getattr(part, name)
  if not 0 <= share <= 1 or (share == 0 and not zero):
    raise ValueError(
      f'{type(part).__name__}({name}={share}) is a share, so it must be '
      f'{"at least" if zero else "above"} 0 and at most 1.'
    )


def check_distinct(part: Objective, names: Sequence[str]) -> None:
  """Raises ValueError if two of these marks were given one id."""
  ids = [getattr(part, name) for name in names]
  given = [last for last in ids if last is not None]
  if len(set(given)) < len(given):
    listed = ', '.join(f'{name}={last}' for name, last in zip(names, ids))
    raise ValueError(
      f'{type(part).__name__}({listed}): two of these marks have one id, and '
      'a reader could not tell them apart. Give each its own, or None.'
    )


def checked_tokens(tokens, vocab: int, *, least: int) -> np.ndarray:
  """A copy of the text, int32 [n], n at least `least`; else ValueError."""
  tokens = np.asarray(tokens)
  if tokens.ndim != 1 or tokens.dtype.kind not in 'iu' or len(tokens) < least:
    raise ValueError(
      f'a text of shape {list(tokens.shape)}, {tokens.dtype}, cannot be used: '
      f'the objective needs integers [n], n at least {least}. Leave it out, or '
      'join it to another.'
    )
  if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocab:
    raise ValueError(
      f'the text has ids from {tokens.min()} to {tokens.max()}, but vocab='
      f'{vocab} has 0 to {vocab - 1}. Give the size of its own tokenizer.'
    )
  return tokens.astype(np.int32)


def checked_flags(flags, tokens: np.ndarray, why: str) -> np.ndarray:
  """`flags`, bool [n]; ValueError that begins with `why` if they are not."""
  if flags is None or np.shape(flags) != tokens.shape:
    given = 'none' if flags is None else f'shape {list(np.shape(flags))}'
    raise ValueError(
      f'{why}: bool {list(tokens.shape)}, one for each token, but got {given}.'
    )
  return np.asarray(flags, bool)


def count_of(share: float, total: int) -> int:
  """So many of `total`, and at least one."""
  return max(1, round(share * total))


def next_tokens(tokens: np.ndarray, prefix: int = 0) -> Text:
  """Each token predicts the next: [n - 1].

  The first `prefix` tokens are a prefix; only what follows it counts.
  """
  at = np.arange(len(tokens) - 1)
  return Text(
    tokens=tokens[:-1],
    targets=tokens[1:],
    weight=(at >= prefix - 1).astype(np.float32),
    role=np.where(at < prefix, PREFIX, 0).astype(np.int32),
  )


def pair_of(source, target, *, start: int, end: int) -> Pair:
  """Both texts with an end mark; the decoder starts from `start`."""
  row = np.concatenate([[start], target, [end]]).astype(np.int32)
  return Pair(
    source=np.concatenate([source, [end]]).astype(np.int32),
    target=next_tokens(row),
  )


def as_prefix(pair: Pair) -> Text:
  """A pair for a decoder alone: its source is the prefix, [s + t].

  So span corruption is trained without an encoder (Tay et al. 2022, UL2).
  """
  source, target = pair
  return Text(
    tokens=np.concatenate([source, target.tokens]),
    targets=np.concatenate([source[1:], target.tokens[:1], target.targets]),
    weight=np.concatenate([np.zeros(len(source), np.float32), target.weight]),
    role=np.concatenate([np.full_like(source, PREFIX), target.role]),
  )
