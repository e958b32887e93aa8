"""Documents from files of JSON lines: one object a line."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from lctx.data.documents import Document, digest
from lctx.data.files import File, fingerprint
from lctx.data.find import find_files
from lctx.data.left_out import (
  EMPTY,
  NOT_UTF8,
  Damaged,
  LeftOut,
  check_damaged,
  choice_hashed,
)
from lctx.data.splits import ByDocument, ByName

_SUFFIXES = frozenset(['.jsonl', '.ndjson', '.json'])
_OR_SKIP = ', or leave out all such lines with data.corpus.damaged=skip'


@dataclasses.dataclass(frozen=True)
class JsonLines:
  """`field` of every line of a file, folder or glob; packed files too.

  A document is called `file:line`; blank lines are passed over. Empty texts are
  left out and counted. `damaged`: a line that is not JSON in UTF-8, has no such
  field, or no whole text in it, is an error that names it ('refuse'), or left
  out and counted, once for all splits together ('skip').
  """

  path: str = ''
  field: str = 'text'
  split: ByDocument | ByName = dataclasses.field(default_factory=ByDocument)
  damaged: str = 'refuse'

  def __post_init__(self):
    check_damaged(self.damaged)

  def documents(
    self, split: str, *, utf8: bool = False, left_out: LeftOut | None = None
  ) -> Iterator[Document]:
    files = find_files(self.path, _SUFFIXES)
    found = _Documents(self, tuple(files), left_out or LeftOut())
    return self.split.documents(found, split)

  def fingerprint(self, folder: str | Path | None = None) -> str:
    files = find_files(self.path, _SUFFIXES)
    found, chosen = fingerprint(files, folder), choice_hashed(self.damaged)
    return digest('json', found, self.field, repr(self.split), *chosen)


@dataclasses.dataclass(frozen=True)
class _Documents:
  """All documents of some files; can be read more than once.

  What a whole pass left out is in `left_out` at its end.
  """

  corpus: JsonLines
  files: tuple[File, ...]
  left_out: LeftOut

  def __iter__(self) -> Iterator[Document]:
    any_text, out = False, LeftOut()
    for name, line in self._lines():
      try:
        text = _text(line, name, self.corpus.field)
      except Damaged as error:
        if self.corpus.damaged == 'refuse':
          raise
        out.add(error.kind, name)
        continue
      if text:
        any_text = True
        yield Document(name, [text], len(text))
      else:
        out.add(EMPTY, name)
    self.left_out.kinds = out.kinds
    if not any_text:
      raise ValueError(
        f'data.corpus.path={self.corpus.path} is an empty corpus: no line has '
        f'text in its field {self.corpus.field!r}. Left out: {out}. Give the '
        'path of files that hold text, or the name of another '
        'data.corpus.field.'
      )

  def _lines(self) -> Iterator[tuple[str, bytes]]:
    for file in self.files:
      for number, line in enumerate(_whole_lines(file), start=1):
        if line.strip():
          yield f'{file.name}:{number}', line


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
  except (ValueError, RecursionError) as error:
    not_utf8 = isinstance(error, UnicodeDecodeError)
    raise Damaged(
      NOT_UTF8 if not_utf8 else 'not JSON',
      f'data.corpus.path: line {name} is not JSON: {error}. Each line must be '
      f'one whole JSON object; repair or remove the line{_OR_SKIP}.',
    ) from error
  if not isinstance(record, dict) or field not in record:
    has = ', '.join(record) if isinstance(record, dict) else 'no fields'
    raise Damaged(
      'without the field',
      f'data.corpus.field={field!r} is missing in line {name}, which has '
      f'{has}. Set data.corpus.field to the field that holds the text'
      f'{_OR_SKIP}.',
    )
  value = record[field]
  if not isinstance(value, str):
    raise Damaged(
      'not a string',
      f'data.corpus.field={field!r} is a {type(value).__name__} in line {name} '
      'where we need a string. Set data.corpus.field to the field that holds '
      f'the text{_OR_SKIP}.',
    )
  try:
    return value.encode()
  except UnicodeEncodeError as error:
    raise Damaged(
      'half a surrogate pair',
      f'data.corpus.path: line {name} holds half a surrogate pair at character '
      f'{error.start} of its field {field!r}, which is no text. Repair or '
      f'remove the line{_OR_SKIP}.',
    ) from error
