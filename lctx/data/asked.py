"""Lanes with an objective: each document of a row is a text of its own."""

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from lctx.data.borders import sentence_ends, word_begins
from lctx.data.codec import Codec
from lctx.data.objectives import Objective, Pair, Text
from lctx.data.store import Store
from lctx.types import EMPTY, Batch

FLAGS = {'begins': word_begins, 'ends': sentence_ends}
Texts = list[tuple[int, np.ndarray]]  # of a row, with their numbers


class Room(NamedTuple):
  """How much of the texts of some rows is left out of them."""

  rows: int
  tokens: int  # of the texts; without the marks that pairs do without
  outside: int  # tokens that found no room
  texts: int  # a text that goes on in another row is one in each
  short: int  # texts that nothing can be asked of; their tokens are not outside


@functools.cache
def stretch(objective: Objective, length: int) -> int:
  """How many tokens of a lane make a row of `length`: the most that fit.

  Of a pair, it is the source that has this length.
  """
  which = 0 if objective.pairs else 1
  return max(
    (
      n
      for n in range(2, 2 * length + 2)
      if objective.lengths(n)[which] <= length
    ),
    default=2,
  )


def asked(
  objective: Objective,
  codec: Codec,
  texts: Mapping[int, Texts],
  step: int,
  length: int,
  *,
  alone: bool = False,
) -> Batch:
  """Rows of a step, by their numbers, each made of its texts, by theirs.

  What has no room is left out: a text is shortened until it fits its row, and
  texts of a single token say nothing. With `alone` the longest text of a row
  has all the room. `room` counts what is left out.
  """
  limits = _limits(objective, length)
  rows = [
    _row(
      objective,
      _parts(objective, codec, of_row, (step, number), limits, alone),
      limits,
    )
    for number, of_row in texts.items()
  ]
  return Batch(
    **{name: np.stack([row[name] for row in rows]) for name in rows[0]}
  )


def room(
  objective: Objective,
  codec: Codec,
  texts: Mapping[int, Texts],
  step: int,
  length: int,
  *,
  alone: bool = False,
) -> Room:
  """What rows of a step leave out; the arguments are those of `asked`."""
  limits = _limits(objective, length)
  parts = [
    part
    for number, of_row in texts.items()
    for part in _parts(objective, codec, of_row, (step, number), limits, alone)
  ]
  return Room(
    rows=len(texts),
    tokens=sum(len(part.text) for part in parts),
    outside=sum(len(part.text) - part.used for part in parts if part.asks),
    texts=len(parts),
    short=sum(not part.asks for part in parts),
  )


class _Part(NamedTuple):
  """A text of a row, and what is asked of its first `used` tokens."""

  number: int
  text: np.ndarray
  asks: bool  # whether anything could be asked, were there room
  used: int
  made: Text | Pair | None


def _limits(objective: Objective, length: int) -> tuple[int, int]:
  """Tokens of a row: of its source, 0 without one, and of its target."""
  if not objective.pairs:
    return 0, length
  return length, objective.lengths(stretch(objective, length))[1]


def _parts(objective, codec, texts: Texts, seed, limits, alone) -> list[_Part]:
  parts, left = [], np.array(limits)
  if alone:
    texts = sorted(texts, key=lambda x: -len(x[1]))
  for place, (number, text) in enumerate(texts):
    if objective.pairs and text[0] == codec.start:
      text = text[1:]  # pairs have marks of their own
    made, used = _fitted(objective, codec, text, (*seed, place), left)
    parts.append(_Part(number, text, objective.asks(text), used, made))
    if made is not None:
      left -= _sizes(made)
    if alone:
      left[:] = 0
  return parts


def _row(objective, parts: list[_Part], limits) -> dict[str, np.ndarray]:
  parts = [part for part in parts if part.made is not None]
  made, numbers = [x.made for x in parts], [x.number for x in parts]
  targets = [x.target if objective.pairs else x for x in made]
  of_targets = [np.full(len(x.tokens), i) for i, x in zip(numbers, targets)]
  row = {
    name: _filled([getattr(x, name) for x in targets], limits[1], dtype)
    for name, dtype in (
      ('tokens', np.int32),
      ('targets', np.int32),
      ('weight', np.float32),
      ('role', np.int32),
    )
  }
  row['document'] = _filled(of_targets, limits[1], np.int32, EMPTY)
  if objective.pairs:
    sources = [x.source for x in made]
    of_sources = [np.full(len(x), i) for i, x in zip(numbers, sources)]
    row['source'] = _filled(sources, limits[0], np.int32)
    row['source_document'] = _filled(of_sources, limits[0], np.int32, EMPTY)
  return row


def _fitted(
  objective, codec, text, seed, left
) -> tuple[Text | Pair | None, int]:
  """What is asked of as much of a text as has room, None = of nothing, and
  how many tokens that is.
  """
  while left[1] and objective.asks(text):
    flags = {name: FLAGS[name](codec, text) for name in objective.wants}
    made = objective(text, seed, codec.size, **flags)
    if (_sizes(made) <= left).all():
      return made, len(text)
    text = text[: len(text) * 7 // 8]
  return None, 0


def _sizes(made: Text | Pair) -> np.ndarray:
  if isinstance(made, Pair):
    return np.array([len(made.source), len(made.target.tokens)])
  return np.array([0, len(made.tokens)])


def _filled(parts: list[np.ndarray], length: int, dtype, fill=0) -> np.ndarray:
  row = np.full(length, fill, dtype)
  joined = np.concatenate([np.zeros(0, dtype), *parts])
  row[: len(joined)] = joined
  return row


def texts_of(
  store: Store, first: int, lane: int, start: int, count: int
) -> Iterator[tuple[int, np.ndarray]]:
  """The texts of a stretch of a lane, and their numbers along it.

  Of the lane of `lane` tokens from the store's `first` on, `count` tokens from
  `start` on. Behind its last token it begins again, with new numbers.
  """
  passes, place = np.divmod(start + np.arange(count), lane)
  ends = np.searchsorted(store.offsets, [first, first + lane - 1], 'right')
  number = np.searchsorted(store.offsets, first + place, 'right') - ends[0]
  number = number + passes * (ends[1] - ends[0] + 1)
  for part in np.split(np.arange(count), 1 + np.flatnonzero(np.diff(number))):
    tokens = store.tokens[first + place[part]].astype(np.int32)
    yield int(number[part[0]]), tokens
