"""Several corpora as one, in shares of bytes."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

from lctx.data.corpora import Stdlib, Text
from lctx.data.datasets import Tfds
from lctx.data.documents import Document, digest
from lctx.data.json_lines import JsonLines

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Interleaves the documents of several corpora.

  In the train split the next document comes from the part that has had the
  fewest bytes for its weight. A part that runs out begins again, until every
  part has been read once. The other splits are one pass over each part.
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

  def documents(self, split: str) -> Iterator[Document]:
    self._check()
    if split == 'train':
      return self._interleaved()
    return (
      dataclasses.replace(document, name=f'{index}/{document.name}')
      for index, part in enumerate(self.parts)
      for document in part.documents(split)
    )

  def fingerprint(self, folder: str | Path | None = None) -> str:
    self._check()
    parts = [part.fingerprint(folder) for part in self.parts]
    return digest('mixture', *parts, repr(self.weights))

  def _interleaved(self) -> Iterator[Document]:
    numbers = range(len(self.parts))
    streams = [part.documents('train') for part in self.parts]
    ahead = [_first(index, stream) for index, stream in enumerate(streams)]
    passes, spent = [0 for _ in numbers], [0 for _ in numbers]
    while not all(passes):
      index = min(numbers, key=lambda i: spent[i] / self.weights[i])
      document = ahead[index]
      counted = _Counted(document)
      turn = f'.{passes[index] + 1}' if passes[index] else ''
      yield Document(f'{index}{turn}/{document.name}', counted, document.size)
      spent[index] += counted.num_bytes()
      ahead[index] = next(streams[index], None)
      if ahead[index] is None:
        passes[index] += 1
        streams[index] = self.parts[index].documents('train')
        ahead[index] = _first(index, streams[index])
    for index in numbers:
      _log.info(
        'mixture part %d: %d whole passes, %s bytes (%.1f%%, weight %g)',
        index,
        passes[index],
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
