"""Several corpora as one, in shares of bytes."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from lctx.data.corpora import Stdlib, Text
from lctx.data.datasets import Tfds
from lctx.data.documents import Document, digest
from lctx.data.json_lines import JsonLines
from lctx.data.left_out import LeftOut

_log = logging.getLogger(__name__)

_Pass = Callable[[], Iterator[Document]]  # reads a part once


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Interleaves the documents of several corpora.

  In the train split the next document comes from the part that has had the
  fewest bytes for its weight. A part that runs out begins again, until every
  part has been read once. The other splits are one pass over each part. Each
  part says by itself what it does with damaged texts.
  """

  parts: tuple[Stdlib | Text | JsonLines | Tfds, ...] = ()
  weights: tuple[float, ...] = ()

  def __post_init__(self):
    if not all(0 < w < float('inf') for w in self.weights):
      raise ValueError(
        f'data.corpus.weights={self.weights} are shares of bytes, so each must '
        'be a finite number above 0. Leave a corpus out of data.corpus.parts '
        'to give it no share.'
      )

  def documents(
    self, split: str, *, utf8: bool = False, left_out: LeftOut | None = None
  ) -> Iterator[Document]:
    self._check()
    of_parts = [LeftOut() for _ in self.parts]
    passes = [
      functools.partial(part.documents, split, utf8=utf8, left_out=of_part)
      for part, of_part in zip(self.parts, of_parts)
    ]
    read = self._interleaved if split == 'train' else _in_turn
    yield from read(passes)
    if left_out is not None:
      left_out.kinds.clear()
      for index, of_part in enumerate(of_parts):
        for kind, (count, name) in of_part.kinds.items():
          left_out.add(kind, f'{index}/{name}', count)

  def fingerprint(self, folder: str | Path | None = None) -> str:
    self._check()
    parts = [part.fingerprint(folder) for part in self.parts]
    return digest('mixture', *parts, repr(self.weights))

  def _interleaved(self, passes: list[_Pass]) -> Iterator[Document]:
    numbers = range(len(self.parts))
    streams = [begin() for begin in passes]
    ahead = [_first(index, stream) for index, stream in enumerate(streams)]
    whole, spent = [0 for _ in numbers], [0 for _ in numbers]
    while not all(whole):
      index = min(numbers, key=lambda i: spent[i] / self.weights[i])
      document = ahead[index]
      counted = _Counted(document)
      turn = f'.{whole[index] + 1}' if whole[index] else ''
      yield Document(f'{index}{turn}/{document.name}', counted, document.size)
      spent[index] += counted.num_bytes()
      ahead[index] = next(streams[index], None)
      if ahead[index] is None:
        whole[index] += 1
        streams[index] = passes[index]()
        ahead[index] = _first(index, streams[index])
    for index in numbers:
      _log.info(
        'mixture part %d: %d whole passes, %s bytes (%.1f%%, weight %g)',
        index,
        whole[index],
        f'{spent[index]:,}',
        100 * spent[index] / sum(spent),
        self.weights[index],
      )

  def _check(self) -> None:
    if not self.parts or len(self.parts) != len(self.weights):
      raise ValueError(
        f'data.corpus: a mixture of {len(self.parts)} parts has '
        f'{len(self.weights)} weights. Give data.corpus.parts at least one '
        'corpus, and data.corpus.weights one number for each.'
      )


def _in_turn(passes: list[_Pass]) -> Iterator[Document]:
  for index, begin in enumerate(passes):
    for document in begin():
      yield dataclasses.replace(document, name=f'{index}/{document.name}')


class _Counted:
  """Blocks that remember, once read to the end, how many bytes they are."""

  def __init__(self, document: Document):
    self._document = document
    self._size = document.size

  def __iter__(self) -> Iterator[bytes]:
    total = 0
    for block in self._document.blocks:
      total += len(block)
      yield block
    self._size = total

  def num_bytes(self) -> int:
    if self._size is None:
      return self._document.num_bytes()
    return self._size


def _first(index: int, stream: Iterator[Document]) -> Document:
  document = next(stream, None)
  if document is None:
    raise ValueError(
      f'data.corpus.parts: part {index} has no document in its train split. '
      'Give it more text, or leave it out.'
    )
  return document
