"""Documents from files of JSON lines: one object a line."""

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from lctx.data.documents import Document, digest
from lctx.data.files import File, fingerprint
from lctx.data.find import find_files
from lctx.data.splits import ByDocument, ByName

_log = logging.getLogger(__name__)

_SUFFIXES = frozenset(['.jsonl', '.ndjson', '.json'])


@dataclasses.dataclass(frozen=True)
class JsonLines:
  """`field` of every line of a file, folder or glob; packed files too.

  A document is called `file:line`; blank lines are passed over.
  """

  path: str = ''
  field: str = 'text'
  split: ByDocument | ByName = dataclasses.field(default_factory=ByDocument)

  def documents(self, split: str) -> Iterator[Document]:
    files = find_files(self.path, _SUFFIXES)
    return self.split.documents(_Documents(self, tuple(files)), split)

  def fingerprint(self, folder: str | Path | None = None) -> str:
    files = find_files(self.path, _SUFFIXES)
    found = fingerprint(files, folder)
    return digest('json', found, self.field, repr(self.split))


@dataclasses.dataclass(frozen=True)
class _Documents:
  """All documents of some files; can be read more than once."""

  corpus: JsonLines
  files: tuple[File, ...]

  def __iter__(self) -> Iterator[Document]:
    found, empty = 0, 0
    for file in self.files:
      for number, line in enumerate(_whole_lines(file), start=1):
        if not line.strip():
          continue
        name = f'{file.name}:{number}'
        text = _text(line, name, self.corpus.field)
        found, empty = found + bool(text), empty + (not text)
        if text:
          yield Document(name, [text], len(text))
    if empty:
      _log.info(
        'corpus %s: %d empty documents left out', self.corpus.path, empty
      )
    if not found:
      raise ValueError(
        f'data.corpus.path={self.corpus.path} is an empty corpus: no line has '
        f'text in its field {self.corpus.field!r}. Give the path of files that '
        'hold text, or the name of another data.corpus.field.'
      )


def _whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
  parts = []
  for block in blocks:
    first, *others = block.split(b'\n')
    parts.append(first)
    for part in others:
      yield b''.join(parts)
      parts = [part]
  yield b''.join(parts)


def _text(line: bytes, name: str, field: str) -> bytes:
  try:
    record = json.loads(line)
  except ValueError as error:  # broken JSON or broken UTF-8
    raise ValueError(
      f'data.corpus.path: line {name} is not JSON: {error}. Each line must be '
      'one whole JSON object; repair or remove the line.'
    ) from error
  if not isinstance(record, dict) or field not in record:
    has = ', '.join(record) if isinstance(record, dict) else 'no fields'
    raise ValueError(
      f'data.corpus.field={field!r} is missing in line {name}, which has '
      f'{has}. Set data.corpus.field to the field that holds the text.'
    )
  value = record[field]
  if not isinstance(value, str):
    raise ValueError(
      f'data.corpus.field={field!r} is a {type(value).__name__} in line {name} '
      'where we need a string. Set data.corpus.field to the field that holds '
      'the text.'
    )
  try:
    return value.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f'data.corpus.path: line {name} holds half a surrogate pair at character '
      f'{error.start} of its field {field!r}, which is no text. Repair or '
      'remove the line.'
    ) from error
