"""A store in padded rows for scoring: every token of text is predicted once.

By document, memory begins empty at each, as it must to compare memories. By
lane, the store is one stream cut in equal stretches, as published numbers are
made. Both read lazily and give pieces of a bounded size.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from lctx.data.store import Store
from lctx.types import EMPTY

SEGMENTS = 256  # the most that one piece has of a row
_GOLDEN = (5**0.5 - 1) / 2


@dataclasses.dataclass(frozen=True)
class Rows:
  """A piece of B rows: [B, n], n a multiple of the segment, or [B].

  `opens`: the rows begin here; else row b goes on where row b of the piece
  before ended. `weight` alone says what counts. `other`: for every row, the
  row whose memory stands in for that of another document; None if there is
  none. All pieces of a row but its last have SEGMENTS segments.
  """

  tokens: np.ndarray  # int32
  targets: np.ndarray  # int32: the token after each token
  document: np.ndarray  # int32: counts up along a row from 0; EMPTY = pad
  weight: np.ndarray  # float32: 1 where the target counts, else 0
  distance: np.ndarray  # int32: tokens of its document before the target
  source: np.ndarray  # int32 [B]: the document or lane; EMPTY = an empty row
  other: np.ndarray | None  # int32 [B]
  opens: bool


def by_document(
  store: Store, rows: int, segment: int, limit_tokens: int | None = None
) -> Iterator[Rows]:
  """One document a row, `rows` of nearly the same length at a time.

  The longest come first. Behind its end a document is read again with weight
  0: the memory that it lends to a longer one stays full. The last rows are
  filled with documents that were counted before, so that each has another.
  `source` is the document's number in the store. With `limit_tokens`: see
  `_choose`.
  """
  assert min(rows, segment) >= 1, (rows, segment)
  chosen = _choose(store, limit_tokens)
  order = np.argsort(-chosen.length, kind='stable')
  order = order[chosen.length[order] > 1]
  for start in range(0, len(order), rows):
    begin = max(0, min(start, len(order) - rows))
    group = chosen.take(order[begin : begin + rows])
    counts = np.arange(begin, begin + len(group.length)) >= start
    longest = group.length[counts].max() - 1
    for first, n in _pieces(longest, segment):
      yield _read_documents(store, group, counts, rows, first + np.arange(n))


def by_lane(
  store: Store, rows: int, segment: int, limit_tokens: int | None = None
) -> Iterator[Rows]:
  """The store as one stream, cut in `rows` lanes of equal length (to a token).

  The first input of a lane is the token before it. Documents count up along a
  lane, so borders reset the memory. `distance` counts from the document's
  beginning even where that lies in the lane before. `source` is the lane.
  With `limit_tokens`: see `_choose`.
  """
  assert min(rows, segment) >= 1, (rows, segment)
  chosen = _choose(store, limit_tokens)
  edges = (chosen.length.sum() - 1) * np.arange(rows + 1) // rows
  for first, n in _pieces(np.diff(edges).max(), segment):
    yield _read_lanes(store, chosen, edges, first + np.arange(n))


@dataclasses.dataclass(frozen=True)
class _Chosen:
  """Documents, int64 [documents] each; `length` counts the start mark too."""

  number: np.ndarray  # in the store
  first: np.ndarray  # where its start mark lies in the store
  length: np.ndarray

  def take(self, which: np.ndarray) -> '_Chosen':
    return _Chosen(self.number[which], self.first[which], self.length[which])


def _choose(store: Store, limit_tokens: int | None) -> _Chosen:
  """The documents of a store, or some with `limit_tokens` of text.

  These are spread evenly over the store, whole but for one, which is cut where
  the limit falls. A lower limit chooses some of what a higher one does.
  """
  first, length = np.asarray(store.offsets[:-1]), np.diff(store.offsets)
  everything = _Chosen(np.arange(len(first)), first, length)
  if limit_tokens is None:
    return everything
  assert limit_tokens >= 1, limit_tokens
  # Multiples of the golden ratio fall evenly around a circle, and so do the
  # multipliers of those in any arc of it.
  spread = np.argsort(np.arange(len(first)) * _GOLDEN % 1, kind='stable')
  text = length[spread] - 1
  left = limit_tokens - (np.cumsum(text) - text)
  taken = left > 0
  length[spread] = 1 + np.minimum(text, left)
  chosen = _Chosen(everything.number, first, length)
  return chosen.take(np.sort(spread[taken]))


def _pieces(length: int, segment: int) -> Iterator[tuple[int, int]]:
  """Where pieces of a row of `length` inputs begin, and their padded sizes."""
  most = SEGMENTS * segment
  for first in range(0, int(length), most):
    needed = min(most, int(length) - first)
    yield first, -(-needed // segment) * segment


def _read_documents(
  store: Store,
  group: _Chosen,
  counts: np.ndarray,
  rows: int,
  place: np.ndarray,
) -> Rows:
  """Inputs number `place` [n] of the documents, and empty rows below them."""
  inputs = group.length[:, None] - 1
  within = place % inputs
  at = group.first[:, None] + within
  weight = (place < inputs) & counts[:, None]
  empty = rows - len(inputs)
  other = np.maximum(np.arange(-1, rows - 1), 0)
  other[0] = 1 if len(inputs) > 1 else 0
  return Rows(
    tokens=_below(store.tokens[at], empty, 0),
    targets=_below(store.tokens[at + 1], empty, 0),
    document=_below(np.zeros(at.shape), empty, EMPTY),
    weight=_below(weight, empty, 0).astype(np.float32),
    distance=_below(within, empty, 0),
    source=_below(group.number, empty, EMPTY),
    other=other.astype(np.int32) if len(inputs) > 1 else None,
    opens=bool(place[0] == 0),
  )


def _below(array: np.ndarray, rows: int, value: int) -> np.ndarray:
  """`array`, int32, with `rows` more rows of `value`."""
  width = [(0, rows)] + [(0, 0)] * (array.ndim - 1)
  return np.pad(array.astype(np.int32), width, constant_values=value)


def _read_lanes(
  store: Store, chosen: _Chosen, edges: np.ndarray, place: np.ndarray
) -> Rows:
  """Inputs number `place` [n] of the lanes between `edges` [B + 1]."""
  ends = np.cumsum(chosen.length)
  start, stop = edges[:-1, None], edges[1:, None]
  stream = start + np.append(place, place[-1] + 1)
  there = stream[:, :-1] < stop
  stream = np.minimum(stream, ends[-1] - 1)
  document = np.searchsorted(ends, stream, 'right')
  within = stream - (ends - chosen.length)[document]
  tokens = store.tokens[chosen.first[document] + within].astype(np.int32)
  first_document = np.searchsorted(ends, start, 'right')
  since = np.where(there, document[:, :-1] - first_document, EMPTY)
  source = np.where(edges[:-1] < edges[1:], np.arange(len(start)), EMPTY)
  return Rows(
    tokens=tokens[:, :-1],
    targets=tokens[:, 1:],
    document=since.astype(np.int32),
    weight=(there & (within[:, 1:] > 0)).astype(np.float32),
    distance=within[:, :-1].astype(np.int32),
    source=source.astype(np.int32),
    other=None,
    opens=bool(place[0] == 0),
  )
