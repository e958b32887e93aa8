"""A codec turns bytes into ids and back; a tokenizer is how one is made."""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from lctx.data.corpora import Corpus
from lctx.data.documents import digest
from lctx.data.files import write_whole

_log = logging.getLogger(__name__)

FILE = 'tokenizer.json'
NO_NAME = 'the given text'  # of text that is no document
_SAVED = {'kind', 'source', 'hash', 'state'}


class Around(NamedTuple):
  """Ids of marks around a text, or around two that belong together."""

  before: list[int]
  between: list[int]
  after: list[int]
  second: int = 0  # type of the tokens of a second text, and of its end


class Codec:
  """Ids and the bytes that each stands for.

  `start` opens every document. `hash` is the sha256 of all that decides the
  ids. `num_bytes` [size] counts bytes of text, 0 for marks. `utf8`: it reads
  characters, and refuses bytes that are none.
  """

  kind: str  # names the class in a saved file
  utf8: ClassVar[bool] = True

  def __init__(self, pieces: list[bytes], start: int):
    self.pieces = pieces
    self.start = start
    self.num_bytes = np.array([len(piece) for piece in pieces], np.int64)

  @property
  def size(self) -> int:
    return len(self.pieces)

  @property
  def hash(self) -> str:
    return _hash(self.kind, self.state())

  def __str__(self) -> str:
    return f'{self.kind}, {self.size:,} ids, hash {self.hash[:16]}'

  def encode(self, text: bytes | str) -> np.ndarray:
    """Its ids, int32, without `start`. Raises ValueError where it cannot."""
    data = text.encode() if isinstance(text, str) else text
    return np.concatenate([np.zeros(0, np.int32), *self.stream([data])])

  def decode(self, ids) -> bytes:
    return b''.join(self.pieces[i] for i in np.asarray(ids).reshape(-1))

  def around(self, pair: bool) -> 'Around':
    """The marks that a whole text is read in, or two of them."""
    return Around([self.start], [], [])

  def stream(
    self, blocks: Iterable[bytes], name: str = NO_NAME
  ) -> Iterator[np.ndarray]:
    """The ids of a document piece by piece: together, those of `encode`."""
    raise NotImplementedError

  def state(self) -> dict:
    """What decides the ids, fit for JSON; `restore` takes it."""
    raise NotImplementedError

  @classmethod
  def restore(cls, state: dict) -> Self:
    raise NotImplementedError

  def save(self, folder: str | Path, source: str = '') -> None:
    """Writes `tokenizer.json`, whole or not at all.

    `source` tells later readers what the codec was made from.
    """
    content = {'kind': self.kind, 'source': source, 'hash': self.hash}
    text = json.dumps({**content, 'state': self.state()})
    write_whole(Path(folder) / FILE, text.encode())


class Tokenizer:
  """How a codec is made of a corpus. Each kind says of what, and how."""

  codec: ClassVar[type[Codec]]

  def fit(
    self, corpus: Corpus, folder: str | Path, *, replace: bool = True
  ) -> Codec:
    """The codec saved in `folder` if it was made of this, else a new one.

    A new one is saved, and another that was there is kept under a new name.
    Without `replace` that one stays in its place, and nothing is saved.
    """
    source, saved = self._source(corpus, folder), read_saved(folder)
    if saved and (saved['kind'], saved['source']) == (self.codec.kind, source):
      return self.codec.restore(saved['state'])
    codec = self._make(corpus)
    if saved and saved['hash'] != codec.hash:
      if not replace:
        return codec
      _keep(Path(folder) / FILE, saved['hash'])
    codec.save(folder, source)
    _log.info('tokenizer: %s', codec)
    return codec

  def _source(self, corpus: Corpus, folder: str | Path) -> str:
    """Changes when what `_make` reads does."""
    raise NotImplementedError

  def _make(self, corpus: Corpus) -> Codec:
    raise NotImplementedError


def read_saved(folder: str | Path) -> dict | None:
  """What `save` wrote, or None where nothing is."""
  path = Path(folder) / FILE
  if not path.exists():
    return None
  try:
    saved = json.loads(path.read_bytes())
    if not isinstance(saved, dict) or not set(saved) >= _SAVED:
      raise ValueError(f'it has not all of {", ".join(sorted(_SAVED))}')
    if saved['hash'] != _hash(str(saved['kind']), saved['state']):
      raise ValueError('its ids are not those it was saved with')
    return saved
  except ValueError as error:
    raise ValueError(
      f'the tokenizer in {path} is damaged ({error}). Delete the file to make '
      'it again from the corpus, or restore it from a copy.'
    ) from error


def _hash(kind: str, state: Any) -> str:
  return digest(kind, json.dumps(state, sort_keys=True))


def _keep(path: Path, old_hash: str) -> None:
  kept = path.with_name(f'{path.stem}.{old_hash[:16]}{path.suffix}')
  os.replace(path, kept)
  _log.warning(
    'the corpus or data.tokenizer changed, and so does the tokenizer: the one '
    'before is kept as %s',
    kept,
  )


def as_text(line: bytes, before: int, name: str) -> str:
  """`line`, which `before` bytes precede in document `name`, as characters."""
  try:
    return line.decode()
  except UnicodeDecodeError as error:
    raise ValueError(
      f'data.tokenizer reads UTF-8 text, and {name} is none at byte '
      f'{before + error.start} (0x{line[error.start]:02x}: {error.reason}). '
      'Repair the text, leave it out with data.corpus.damaged=skip, or use '
      'data.tokenizer=bytes, which reads any bytes.'
    ) from error


def read_ready(path: str, what: str) -> bytes:
  """The contents of the file that `data.tokenizer.path` names."""
  try:
    return Path(path).expanduser().read_bytes()
  except OSError as error:
    raise ValueError(
      f'data.tokenizer.path={path} cannot be read ({error.strerror}). Give the '
      f'path of {what}.'
    ) from error
