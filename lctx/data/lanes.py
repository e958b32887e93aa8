"""Lanes: a store read in parallel, as a pure function of the step.

Lane b is the b-th of `rows` equal stretches of the store. Row b of batch
i + 1 begins where row b of batch i ended, so a memory may be carried from
step to step, and the state of the whole pipeline is the number of the step.
"""

import dataclasses

import numpy as np

from lctx.data.asked import Room, asked, room, stretch, texts_of
from lctx.data.codec import Codec
from lctx.data.corpora import Stdlib, Text
from lctx.data.datasets import Tfds
from lctx.data.json_lines import JsonLines
from lctx.data.long_texts import LongTexts, Refuse
from lctx.data.mixture import Mixture
from lctx.data.objectives import Causal, Objective
from lctx.data.store import Store
from lctx.data.tokenizers import (
  Bytes,
  Published,
  PublishedBytes,
  SentencePiece,
  Words,
)
from lctx.types import Batch


@dataclasses.dataclass(frozen=True)
class Lanes:
  """What is read, and how much of it at a step: `segments` of `segment`.

  `folder` is where tokenised stores are kept, empty for the workdir.
  `objective` says what of it is predicted. Where that gives pairs, segments are
  those of the encoder, and its decoder writes what belongs to as much text.
  `alone`: a row is of one document, the longest of its stretch; the others are
  left out. `long_texts`: what becomes of a text that is longer than the model
  reads, where it is read whole: to write after it, to score it, to say
  something of it. Training cuts documents into rows.
  """

  corpus: Stdlib | Text | JsonLines | Mixture | Tfds = dataclasses.field(
    default_factory=Stdlib
  )
  tokenizer: Bytes | PublishedBytes | SentencePiece | Words | Published = (
    dataclasses.field(default_factory=Bytes)
  )
  rows: int = 16
  segment: int = 128
  segments: int = 1
  folder: str = ''
  alone: bool = False
  objective: Objective = dataclasses.field(default_factory=Causal)
  long_texts: LongTexts = dataclasses.field(default_factory=Refuse)

  def __post_init__(self):
    for name in ('rows', 'segment', 'segments'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'data.{name}={getattr(self, name)} must be at least 1: a step reads '
          'rows x segments x segment tokens.'
        )
    if self.alone and self.predicts_next:
      raise ValueError(
        'data.alone = true leaves out texts of a row, which data.objective = '
        'causal reads all. Set it to false.'
      )

  @property
  def length(self) -> int:
    """Tokens a row reads at a step; of pairs, those of a source."""
    return self.segment * self.segments

  @property
  def predicts_next(self) -> bool:
    """Whether every token predicts the next, and nothing else is asked."""
    return self.objective == Causal()

  @property
  def stretch(self) -> int:
    """Tokens of a lane that a step uses up."""
    if self.predicts_next:
      return self.length
    return stretch(self.objective, self.length)

  @property
  def written(self) -> int:
    """Tokens a decoder beside an encoder reads at a step; 0 without one."""
    if not self.objective.pairs:
      return 0
    return self.objective.lengths(self.stretch)[1]

  def vocabulary(self, codec: Codec) -> int:
    """Ids of the tokenizer, and of the objective's marks behind them."""
    return codec.size + self.objective.extra(codec.size)

  def check(self, store: Store) -> None:
    check(store, self.rows, self.stretch)

  def batch(
    self, store: Store, codec: Codec, step: int, take: slice = slice(None)
  ) -> Batch:
    """Batch number `step`, or its rows `take`: always the same."""
    if self.predicts_next:
      return batch(store, self.rows, self.length, step, take)
    return self._asked(asked, store, codec, step, take)

  def room(self, store: Store, codec: Codec, rows: int) -> Room:
    """What the first `rows` rows leave out, of one pass at most.

    An objective is needed: where every token predicts the next, all have room.
    """
    whole = max(len(store.tokens) // self.rows // self.stretch, 1)
    found = [
      self._asked(room, store, codec, step, slice(rows - step * self.rows))
      for step in range(min(whole, -(-rows // self.rows)))
    ]
    return Room(*map(sum, zip(*found)))

  def _asked(self, call, store, codec, step, take):
    lane, length = len(store.tokens) // self.rows, self.stretch
    texts = {
      row: list(texts_of(store, row * lane, lane, step * length, length))
      for row in range(self.rows)[take]
    }
    return call(
      self.objective, codec, texts, step, self.length, alone=self.alone
    )


def check(store: Store, rows: int, length: int) -> None:
  """Raises ValueError if a lane of `store` is shorter than one step."""
  lane = len(store.tokens) // rows
  if lane >= max(length, 2):
    return
  total = len(store.tokens)
  fits = []
  if most := total // max(length, 2):
    fits.append(f'data.rows at most {most} with this length')
  if lane > 1:
    fits.append(f'data.segment x data.segments at most {lane} with these rows')
  raise ValueError(
    f'the text is too short for data.rows={rows} and data.segment x '
    f'data.segments={length}: it has {total:,} tokens, and each row needs '
    f'{max(length, 2):,} of its own, {rows * max(length, 2):,} in all. What '
    f'fits: {"; ".join([*fits, "more text in data.corpus"])}.'
  )


def batch(
  store: Store, rows: int, length: int, step: int, take: slice = slice(None)
) -> Batch:
  """Batch number `step`, or its rows `take`: arrays [rows, length].

  The target of a token is the next one in its lane. Behind the lane's last
  token, whose target has no weight, the lane begins again. Documents count up
  from 0 along the lane, a new beginning included.
  """
  lane = len(store.tokens) // rows
  places = [
    _read(store, b * lane, lane, step * length, length)
    for b in range(rows)[take]
  ]
  tokens, document, weight = (np.stack(arrays) for arrays in zip(*places))
  return Batch(
    tokens=tokens[:, :-1],
    targets=tokens[:, 1:],
    document=document,
    weight=weight,
  )


def _read(store: Store, first: int, lane: int, start: int, length: int):
  """One row: length + 1 tokens, and the documents and weights of `length`."""
  passes, place = np.divmod(start + np.arange(length + 1), lane)
  at = first + place
  tokens = store.tokens[at].astype(np.int32)
  index = np.searchsorted(store.offsets, [first, first + lane - 1], 'right')
  a_pass = index[1] - index[0] + 1  # documents that one pass touches
  document = np.searchsorted(store.offsets, at[:-1], 'right') - index[0]
  document = document + passes[:-1] * a_pass
  weight = (place[:-1] < lane - 1).astype(np.float32)
  return tokens, document.astype(np.int32), weight
