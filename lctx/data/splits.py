"""How a corpus is divided into train, valid and test."""

import dataclasses
import fnmatch
import hashlib
import logging
from collections.abc import Iterable, Iterator

import numpy as np

from lctx.data.documents import Document, Range

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ByDocument:
  """Whole documents: `valid` and `test` are shares of their number.

  A hash of its name places a document, so neither the order nor the other
  documents matter, except that each split gets at least one.
  """

  valid: float = 0.05
  test: float = 0.05

  def __post_init__(self):
    shares = (self.valid, self.test)
    if not (all(0 < s < 1 for s in shares) and sum(shares) < 1):
      raise ValueError(
        f'data.corpus.split: ByDocument(valid={self.valid}, test={self.test}) '
        'needs two shares above 0 whose sum is below 1, since training gets '
        'the rest. Use for example valid=0.05 and test=0.05.'
      )

  def documents(
    self, documents: Iterable[Document], split: str
  ) -> Iterator[Document]:
    """Those of `split`. Goes through `documents` twice."""
    places = sorted(_place(document.name) for document in documents)
    if len(places) < 3:
      raise ValueError(
        f'data.corpus.split: the corpus has {len(places)} documents that can '
        'be read, and a split by document needs at least 3 (train, valid, '
        'test). Use --config.data.corpus.split=bybytes to cut the text by '
        'bytes.'
      )
    edges = [self.test * 2.0**64, (self.test + self.valid) * 2.0**64]
    first, second = np.searchsorted(np.array(places, np.uint64), edges)
    first = min(max(first, 1), len(places) - 2)
    second = min(max(second, first + 1), len(places) - 1)
    low, high = {
      'test': (0, places[first]),
      'valid': (places[first], places[second]),
      'train': (places[second], 1 << 64),
    }[split]
    for document in documents:
      if low <= _place(document.name) < high:
        yield document


@dataclasses.dataclass(frozen=True)
class ByBytes:
  """Ranges of bytes of all documents end to end: train, valid, test.

  The defaults are the published split of enwik8 and text8. A shorter corpus
  is cut in the same ratio; of a longer one the rest is not read. Both are
  logged. `whole_characters` moves a cut that falls inside a UTF-8 character
  behind it; without it, cuts are exact to the byte.
  """

  train: int = 90_000_000
  valid: int = 5_000_000
  test: int = 5_000_000
  whole_characters: bool = True

  def __post_init__(self):
    if min(self.train, self.valid, self.test) < 1:
      raise ValueError(
        f'data.corpus.split: ByBytes(train={self.train}, valid={self.valid}, '
        f'test={self.test}) counts bytes, so each must be at least 1.'
      )

  def documents(
    self, documents: Iterable[Document], split: str
  ) -> Iterator[Document]:
    """The pieces of documents that fall into `split`."""
    documents = list(documents)
    sizes = [document.num_bytes() for document in documents]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).tolist()
    first, last = self._range(documents, starts, split)
    for document, start, end in zip(documents, starts, starts[1:]):
      low, high = max(first, start) - start, min(last, end) - start
      if (low, high) == (0, end - start):
        yield document
      elif low < high:
        blocks = Range(document.blocks, low, high)
        yield Document(f'{document.name}[{low}:{high}]', blocks, high - low)

  def _range(self, documents, starts, split: str) -> tuple[int, int]:
    wanted = np.cumsum([0, self.train, self.valid, self.test]).tolist()
    total = starts[-1]
    if total < wanted[-1]:
      cuts = [total * w // wanted[-1] for w in wanted]
    else:
      cuts = wanted
    if min(np.diff(cuts)) < 1:
      raise ValueError(
        f'data.corpus.split: the corpus has {total} bytes, too few to give '
        'train, valid and test one each in the ratio '
        f'{self.train}:{self.valid}:{self.test}. Give a longer text, or '
        'larger shares to data.corpus.split.valid and .test.'
      )
    if split == 'train':
      _tell(total, wanted[-1], cuts)
    if self.whole_characters:
      cuts[1:] = [_behind_character(documents, starts, c) for c in cuts[1:]]
    index = ('train', 'valid', 'test').index(split)
    return cuts[index], cuts[index + 1]


@dataclasses.dataclass(frozen=True)
class ByName:
  """Documents whose name matches a pattern; the rest trains.

  For corpora that come divided: wiki.train.tokens, wiki.valid.tokens, ...
  """

  valid: str = '*valid*'
  test: str = '*test*'

  def documents(
    self, documents: Iterable[Document], split: str
  ) -> Iterator[Document]:
    return (d for d in documents if self._split(d.name) == split)

  def _split(self, name: str) -> str:
    if fnmatch.fnmatchcase(name, self.valid):
      return 'valid'
    return 'test' if fnmatch.fnmatchcase(name, self.test) else 'train'


Split = ByDocument | ByBytes | ByName


def _place(name: str) -> int:
  """Where a name falls in [0, 2^64)."""
  return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'big')


def _tell(total: int, wanted: int, cuts: list[int]) -> None:
  lengths = '/'.join(f'{length:,}' for length in np.diff(cuts).tolist())
  if total < wanted:
    _log.warning(
      'the corpus has %s bytes, fewer than the %s of data.corpus.split: train/'
      'valid/test are cut in the same ratio, %s bytes',
      f'{total:,}',
      f'{wanted:,}',
      lengths,
    )
  elif total > wanted:
    _log.warning(
      'train/valid/test take %s bytes as data.corpus.split says; the last %s '
      'bytes of the corpus are not used',
      lengths,
      f'{total - wanted:,}',
    )


def _behind_character(documents, starts: list[int], cut: int) -> int:
  """`cut`, or the end of the UTF-8 character that it would divide."""
  index = int(np.searchsorted(starts, cut, side='right')) - 1
  if cut == starts[index] or index == len(documents):
    return cut
  at = cut - starts[index]
  first = max(at - 3, 0)
  near = b''.join(Range(documents[index].blocks, first, at + 3))
  for start in range(at - first - 1, -1, -1):
    for end in range(at - first + 1, min(start + 4, len(near)) + 1):
      if _is_character(near[start:end]):
        return cut + end - (at - first)
  return cut


def _is_character(data: bytes) -> bool:
  try:
    return len(data.decode()) == 1
  except UnicodeDecodeError:
    return False
