"""The tokenised store: all documents of a split, flat, memory-mapped.

A store is a folder that appears whole or not at all, named after a hash of
everything that decides its contents, so a changed corpus makes another one:

  tokens.bin   uint8, uint16 or int32: documents end to end, each opened by
               the codec's start id
  offsets.bin  int64 [documents + 1]: where each begins, and the end
  counts.bin   int64 [documents, 3]: bytes, characters, words of the text
  names.txt    their names, JSON strings, one a line
  meta.json    hash, type of tokens, sizes of the files, what was left out
"""

import dataclasses
import json
import logging
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lctx.data.codec import Codec
from lctx.data.corpora import Corpus
from lctx.data.documents import SPLITS, Document, digest
from lctx.data.left_out import LeftOut

_log = logging.getLogger(__name__)

_FORMAT = '1'
_IS_SPACE = np.isin(np.arange(256), list(b' \t\n\r\v\f'))


@dataclasses.dataclass(frozen=True)
class Store:
  """Document i is `tokens[offsets[i]:offsets[i + 1]]`.

  `num_bytes`, `num_chars` (of UTF-8) and `num_words` (between ASCII spaces)
  [documents] count the text as it was read, before any tokenizer. `left_out`
  counts texts of the corpus that are not here.
  """

  folder: Path
  hash: str
  tokens: np.ndarray
  offsets: np.ndarray
  num_bytes: np.ndarray
  num_chars: np.ndarray
  num_words: np.ndarray
  left_out: LeftOut = dataclasses.field(default_factory=LeftOut)

  @property
  def num_documents(self) -> int:
    return len(self.offsets) - 1

  @property
  def names(self) -> list[str]:
    """The documents' names, read from disk at each call."""
    with open(self.folder / 'names.txt', encoding='ascii') as lines:
      return [json.loads(line) for line in lines]


def open_store(
  corpus: Corpus, codec: Codec, split: str, folder: str | Path
) -> Store:
  """The store of a split in `folder`; tokenises it if it is not there yet.

  Raises: ValueError for what is wrong with the corpus or its text.
  """
  assert split in SPLITS, split
  source = corpus.fingerprint(folder)
  key = digest(_FORMAT, source, codec.hash, split)
  home = Path(folder) / f'{split}-{key[:16]}'
  if not _is_whole(home):
    _write(corpus, codec, split, home, key)
  store = _read(home)
  _log.info(
    'corpus %s, %s: %s documents, %s bytes, %s tokens, source hash %s',
    type(corpus).__name__.lower(),
    split,
    f'{store.num_documents:,}',
    f'{int(store.num_bytes.sum()):,}',
    f'{len(store.tokens):,}',
    source[:16],
  )
  _tell(store.left_out, corpus, split)
  return store


def _tell(left_out: LeftOut, corpus: Corpus, split: str) -> None:
  if left_out.kinds:
    _log.log(
      logging.WARNING if left_out.damaged else logging.INFO,
      'corpus %s, read for its %s split: left out %s',
      type(corpus).__name__.lower(),
      split,
      left_out,
    )


def _read(home: Path) -> Store:
  meta = json.loads((home / 'meta.json').read_text())
  counts = np.memmap(home / 'counts.bin', np.int64, 'r').reshape(-1, 3)
  return Store(
    folder=home,
    hash=meta['hash'],
    tokens=np.memmap(home / 'tokens.bin', meta['dtype'], 'r'),
    offsets=np.memmap(home / 'offsets.bin', np.int64, 'r'),
    num_bytes=counts[:, 0],
    num_chars=counts[:, 1],
    num_words=counts[:, 2],
    left_out=LeftOut(meta.get('left_out', {})),  # older stores: not counted
  )


def _is_whole(home: Path) -> bool:
  """False also, with a warning, for a store that someone cut or emptied."""
  if not home.is_dir():
    return False
  try:
    meta = json.loads((home / 'meta.json').read_text())
    sizes = {n: (home / n).stat().st_size for n in meta['sizes']}
  except (OSError, ValueError) as error:
    _log.warning('store %s is damaged and made again: %s', home, error)
    return False
  if sizes != meta['sizes']:
    _log.warning('store %s is damaged and made again: wrong sizes', home)
    return False
  return True


def _write(
  corpus: Corpus, codec: Codec, split: str, home: Path, key: str
) -> None:
  """Tokenises into a folder of its own, then renames it to `home`."""
  _mention_leftovers(home)
  partial = home.with_name(f'.{home.name}.{uuid.uuid4().hex}.partial')
  try:
    partial.mkdir(parents=True)
  except OSError as error:
    raise ValueError(
      f'data.folder = {str(home.parent)!r} cannot be written: '
      f'{error.strerror}. Tokenised text goes there. Set data.folder to a '
      'folder that you may write, or leave it out for one in the workdir.'
    ) from error
  try:
    left_out = _tokenise(corpus, codec, split, partial)
    _describe(partial, _dtype(codec.size), key, left_out)
    if home.exists() and not _is_whole(home):
      shutil.rmtree(home)
    if not home.exists():
      os.replace(partial, home)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _tokenise(
  corpus: Corpus, codec: Codec, split: str, partial: Path
) -> LeftOut:
  dtype, end, left_out = _dtype(codec.size), 0, LeftOut()
  documents = corpus.documents(split, utf8=codec.utf8, left_out=left_out)
  quiet = not sys.stderr.isatty()
  with (
    open(partial / 'tokens.bin', 'wb') as tokens,
    open(partial / 'offsets.bin', 'wb') as offsets,
    open(partial / 'counts.bin', 'wb') as counts,
    open(partial / 'names.txt', 'w', encoding='ascii') as names,
    tqdm(
      unit='B',
      unit_scale=True,
      desc=f'tokenising {split}',
      disable=quiet,
      delay=2,
    ) as progress,
  ):
    offsets.write(np.int64(0).tobytes())
    for document in documents:
      counter = _Counter(document, progress)
      start = np.array([codec.start], dtype)
      tokens.write(start.tobytes())
      end += 1
      for ids in codec.stream(counter, document.name):
        tokens.write(ids.astype(dtype).tobytes())
        end += len(ids)
      offsets.write(np.int64(end).tobytes())
      counts.write(np.array(counter.counts, np.int64).tobytes())
      names.write(json.dumps(document.name) + '\n')
  if end == 0:
    raise ValueError(
      f'data.corpus has no document in its {split} split. Left out: '
      f'{left_out}. Give it more text, or change data.corpus.split.'
    )
  return left_out


def _describe(
  partial: Path, dtype: np.dtype, key: str, left_out: LeftOut
) -> None:
  sizes = {path.name: path.stat().st_size for path in partial.iterdir()}
  meta = {'hash': key, 'dtype': dtype.name, 'sizes': sizes}
  meta['left_out'] = left_out.kinds
  (partial / 'meta.json').write_text(json.dumps(meta))


def _mention_leftovers(home: Path) -> None:
  for path in home.parent.glob(f'.{home.name}.*.partial'):
    _log.warning(
      'store: %s was left by a run that was stopped, or is being written by '
      'another; it is not used',
      path,
    )


def _dtype(size: int) -> np.dtype:
  if size <= 1 << 8:
    return np.dtype(np.uint8)
  return np.dtype(np.uint16 if size <= 1 << 16 else np.int32)


class _Counter:
  """A document's blocks, counted as they pass: bytes, characters, words."""

  def __init__(self, document: Document, progress: tqdm):
    self._document = document
    self._progress = progress
    self.counts = [0, 0, 0]

  def __iter__(self) -> Iterator[bytes]:
    after_space = True
    for block in self._document.blocks:
      values = np.frombuffer(block, np.uint8)
      spaces = _IS_SPACE[values]
      before = np.concatenate([[after_space], spaces[:-1]])
      self.counts[0] += len(block)
      self.counts[1] += int(np.count_nonzero(values & 0xC0 != 0x80))
      self.counts[2] += int(np.count_nonzero(before & ~spaces))
      after_space = bool(spaces[-1])
      self._progress.update(len(block))
      yield block
