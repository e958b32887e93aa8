"""Lanes with an objective: each document of a row is a text of its own."""

import functools
from collections.abc import Iterator, Mapping

import numpy as np

from lctx.data.borders import sentence_ends, word_begins
from lctx.data.codec import Codec
from lctx.data.objectives import Objective, Pair, Text
from lctx.data.store import Store
from lctx.types import EMPTY, Batch

FLAGS = {'begins': word_begins, 'ends': sentence_ends}


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
  texts: Mapping[int, list[tuple[int, np.ndarray]]],
  step: int,
  length: int,
) -> Batch:
  """Rows of a step, by their numbers, each made of its texts, by theirs.

  What has no room is left out: a text is shortened until it fits its row, and
  texts of a single token say nothing.
  """
  size = objective.lengths(stretch(objective, length))[1]
  limits = (length, size) if objective.pairs else (0, length)
  rows = [
    _row(objective, codec, of_row, (step, number), limits)
    for number, of_row in texts.items()
  ]
  return Batch(
    **{name: np.stack([row[name] for row in rows]) for name in rows[0]}
  )


def _row(objective, codec, texts, seed, limits) -> dict[str, np.ndarray]:
  made, numbers, left = [], [], np.array(limits)
  for place, (number, text) in enumerate(texts):
    if objective.pairs and text[0] == codec.start:
      text = text[1:]  # pairs have marks of their own
    found = _fitted(objective, codec, text, (*seed, place), left)
    if found is not None:
      made.append(found)
      numbers.append(number)
      left -= _sizes(found)
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


def _fitted(objective, codec, text, seed, left) -> Text | Pair | None:
  """What is asked of as much of a text as has room; None = of nothing."""
  while len(text) > 1:
    flags = {name: FLAGS[name](codec, text) for name in objective.wants}
    made = objective(text, seed, codec.size, **flags)
    if (_sizes(made) <= left).all():
      return made
    text = text[: len(text) * 7 // 8]
  return None


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
