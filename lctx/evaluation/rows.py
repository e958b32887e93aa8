"""A store in padded rows for scoring: every token of text is predicted once.

By document, memory begins empty at each, as it must to compare memories. By
lane, the store is one stream cut in equal stretches, as published numbers are
made. By stretch, each of these stands for a document. All read lazily and give
pieces of a bounded size.
"""

import dataclasses
import heapq
from collections.abc import Iterator

import numpy as np

from lctx.data.store import Store
from lctx.types import EMPTY

SEGMENTS = 256  # the most that one piece has of a row
_GOLDEN = (5**0.5 - 1) / 2


@dataclasses.dataclass(frozen=True)
class Rows:
  """A piece of B rows: [B, n], n a multiple of the segment; `other` is [B].

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
  source: np.ndarray  # int32: the document in the store, or the lane
  other: np.ndarray | None  # int32 [B]
  opens: bool


def by_document(
  store: Store, rows: int, segment: int, limit_tokens: int | None = None
) -> Iterator[Rows]:
  """Whole documents, end to end in at most `rows` rows of about one length.

  The longest come first; where one of them outweighs the rest there are fewer
  rows, for none should wait. Memory is empty where a document begins. A row
  that has ended is read again with weight 0, as further documents, so that
  the memory it lends stays full. With `limit_tokens`: see `_choose`.
  """
  assert min(rows, segment) >= 1, (rows, segment)
  chosen = _choose(store, limit_tokens)
  chosen = chosen.take(np.argsort(-chosen.length, kind='stable'))
  chosen = chosen.take(np.flatnonzero(chosen.length > 1))
  if not len(chosen.length):
    return
  even = chosen.length.sum() // chosen.length[0]
  rows = min(rows, len(chosen.length), max(2, int(even)))
  row_of = _dealt(chosen.length, rows)
  size = np.bincount(row_of, chosen.length, rows).astype(np.int64)
  documents = np.bincount(row_of, minlength=rows)[:, None]
  chosen = chosen.take(np.argsort(row_of, kind='stable'))
  stop = np.cumsum(size)
  lanes = _Lanes(stop - size, stop - 1)
  other = _others(rows)
  for first, n in _pieces(lanes.inputs.max(), segment):
    place = first + np.arange(n)[None]
    passes, again = np.divmod(place, lanes.inputs)
    piece = _read(store, chosen, lanes, again, passes == 0, other)
    yield dataclasses.replace(
      piece,
      document=(piece.document + passes * documents).astype(np.int32),
      opens=first == 0,
    )


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
  lanes = _Lanes(edges[:-1], edges[1:])
  for first, n in _pieces(lanes.inputs.max(), segment):
    place = first + np.arange(n)[None] + 0 * lanes.inputs
    there = place < lanes.inputs
    piece = _read(store, chosen, lanes, place, there, None)
    yield dataclasses.replace(
      piece,
      document=np.where(there, piece.document, EMPTY).astype(np.int32),
      source=np.broadcast_to(np.arange(rows)[:, None], place.shape),
      opens=first == 0,
    )


def by_stretch(
  store: Store, rows: int, segment: int, limit_tokens: int | None = None
) -> Iterator[Rows]:
  """Lanes of a store of one document, each taken for a document."""
  start = None
  for piece in by_lane(store, rows, segment, limit_tokens):
    if start is None:
      start = piece.distance[:, :1]
    distance = np.maximum(piece.distance - start, 0)
    yield dataclasses.replace(piece, distance=distance, other=_others(rows))


def _others(rows: int) -> np.ndarray | None:
  """For each row, the one before it, which lends its memory."""
  return np.roll(np.arange(rows, dtype=np.int32), 1) if rows > 1 else None


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


@dataclasses.dataclass(frozen=True)
class _Lanes:
  """Where rows begin and end in the stream of chosen documents, int64 [B]."""

  start: np.ndarray
  stop: np.ndarray  # of inputs; the last target lies there

  @property
  def inputs(self) -> np.ndarray:
    """Their number, [B, 1]."""
    return (self.stop - self.start)[:, None]


def _dealt(lengths: np.ndarray, rows: int) -> np.ndarray:
  """A row for each document, longest first: always the emptiest row."""
  loads = [(0, row) for row in range(rows)]
  dealt = np.zeros(len(lengths), np.int64)
  for document, length in enumerate(lengths.tolist()):
    load, row = heapq.heappop(loads)
    dealt[document] = row
    heapq.heappush(loads, (load + length, row))
  return dealt


def _read(
  store: Store,
  chosen: _Chosen,
  lanes: _Lanes,
  place: np.ndarray,
  counts: np.ndarray,
  other: np.ndarray | None,
) -> Rows:
  """Inputs number `place` [B, n] of the lanes; `counts` [B, n] if not again."""
  ends = np.cumsum(chosen.length)
  stream = lanes.start[:, None] + place
  both = np.minimum(np.stack([stream, stream + 1]), ends[-1] - 1)
  document = np.searchsorted(ends, both, 'right')
  within = both - (ends - chosen.length)[document]
  tokens = store.tokens[chosen.first[document] + within].astype(np.int32)
  since = document[0] - np.searchsorted(ends, lanes.start, 'right')[:, None]
  return Rows(
    tokens=tokens[0],
    targets=tokens[1],
    document=since.astype(np.int32),
    weight=(counts & (within[1] > 0)).astype(np.float32),
    distance=within[0].astype(np.int32),
    source=chosen.number[document[0]].astype(np.int32),
    other=other,
    opens=True,
  )
