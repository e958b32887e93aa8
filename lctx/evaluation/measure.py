"""From a store and a scorer to a result: units, comparison, positions."""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from lctx.data.codec import Codec
from lctx.data.store import Store
from lctx.errors import UserError
from lctx.evaluation.gain import Comparison, by_position, compare
from lctx.evaluation.report import Result
from lctx.evaluation.rows import Rows, by_document, by_lane, by_stretch
from lctx.evaluation.score import Evaluation, Scorer
from lctx.evaluation.tally import CONDITIONS, Tally
from lctx.evaluation.units import Units, units


@dataclasses.dataclass
class Counts:
  """What the nats of an evaluation were spent on, summed piece by piece."""

  codec: Codec
  nats: float = 0.0
  tokens: int = 0
  num_bytes: int = 0
  num_chars: int = 0
  num_words: int = 0
  _ends: list[bytes] = dataclasses.field(default_factory=list, repr=False)

  def add(self, rows: Rows, nats: np.ndarray) -> None:
    if rows.opens:
      self._ends = [b''] * len(nats)  # the last byte of each row so far
    for b, row in enumerate(nats):
      counted = rows.weight[b] > 0
      self.nats += float(row[counted].sum(dtype=np.float64))
      self.tokens += int(counted.sum())
      text = self.codec.decode(rows.targets[b][counted])
      values = np.frombuffer(text, np.uint8)
      self.num_bytes += len(values)
      self.num_chars += int(np.count_nonzero(values & 0xC0 != 0x80))
      self.num_words += len((self._ends[b] + text).split())
      self.num_words -= len(self._ends[b].split())  # it goes on here
      self._ends[b] = (self._ends[b] + text)[-1:]

  def units(self, store: Store, whole: bool) -> Units:
    """Exact counts of a whole store; of a part, as its tokens spell it."""
    if not whole:
      return units(
        self.nats,
        self.tokens,
        num_bytes=self.num_bytes,
        num_chars=self.num_chars,
        num_words=self.num_words,
      )
    return units(
      self.nats,
      self.tokens,
      num_bytes=int(store.num_bytes.sum()),
      num_chars=int(store.num_chars.sum()),
      num_words=int(store.num_words.sum()),
    )


def spelled(
  store: Store, codec: Codec, rows: int, segment: int, limit: int
) -> Counts:
  """What `perplexity` of at most `limit` tokens will count: its nats are 0.

  `rows` lanes are read `segment` tokens at a time.
  """
  counts = Counts(codec)
  for piece in by_lane(store, rows, segment, limit):
    counts.add(piece, np.zeros(piece.targets.shape, np.float32))
  return counts


def perplexity(
  scorer: Scorer,
  store: Store,
  codec: Codec,
  rows: int,
  limit: int | None,
  poll: Callable[[], None] = lambda: None,
) -> Units:
  """The loss of a split read as lanes; every token is predicted once."""
  counts = Counts(codec)
  pieces = by_lane(store, rows, scorer.segment, limit)
  for piece, nats in scorer(pieces, poll=poll):
    counts.add(piece, nats['own'])
  return counts.units(store, limit is None)


def measure(
  scorer: Scorer,
  store: Store,
  codec: Codec,
  settings: Evaluation,
  title: str,
  poll: Callable[[], None] = lambda: None,
) -> Result:
  """Everything about a split, memory against none included.

  Each document is read from an empty memory. A store of one document is
  read in equal stretches, one a row, and these stand in for documents.
  Raises UserError for a split without text.
  """
  read = by_stretch if store.num_documents == 1 else by_document
  pieces = read(store, settings.rows, scorer.segment, settings.tokens)
  first = next(pieces, None)
  if first is None:
    raise UserError(
      f'The documents of {title} hold no text. Give data.corpus more of it, or '
      'set eval.split to another split.'
    )
  conditions = ('own',)
  if settings.compare and scorer.model.remembers:  # else `table` says so
    conditions = ('own', 'none') if first.other is None else CONDITIONS
  counts, tally = Counts(codec), Tally(scorer.segment)
  for piece, nats in scorer(itertools.chain([first], pieces), conditions, poll):
    counts.add(piece, nats['own'])
    tally.add(piece, codec.num_bytes[piece.targets], nats)
  comparison = compare(tally) if len(conditions) > 1 else None
  if comparison is not None and store.num_documents == 1:
    comparison = _of_stretches(comparison, settings.rows)
  return Result(
    title,
    counts.units(store, settings.tokens is None),
    comparison,
    by_position(tally),
  )


def _of_stretches(comparison: Comparison, rows: int) -> Comparison:
  note = (
    f'One document, read in {rows} stretches that stand in for documents; '
    'another stretch lends its memory.'
  )
  notes = ' '.join(filter(None, (note, comparison.note)))
  return dataclasses.replace(comparison, note=notes)
