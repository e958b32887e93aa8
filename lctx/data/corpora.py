"""Where text comes from: files, and Python's own standard library.

A corpus has two methods. `documents(split)` yields the documents of 'train',
'valid' or 'test', each with at least one byte. `utf8` says that the reader
takes no other text: a corpus that skips damage then leaves out, before it is
split, every document that is not UTF-8 as a whole. Once the last document was
read, `left_out` holds what was left out for this split; a store logs it.

`fingerprint(folder)` is a hash that changes when the documents do. It raises
what is wrong with the source, and remembers in the folder, if one is given,
what would take long to hash again.
"""

import dataclasses
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from lctx.data.documents import Document, digest
from lctx.data.files import File, fingerprint, reading
from lctx.data.find import find_files
from lctx.data.left_out import (
  EMPTY,
  NOT_UTF8,
  LeftOut,
  check_damaged,
  choice_hashed,
  is_utf8,
)
from lctx.data.splits import ByBytes, ByDocument, ByName

_NOT_MODULES = {
  'site-packages',
  'dist-packages',
  'test',
  'tests',
  'idle_test',
  '__pycache__',
}


class Corpus(Protocol):
  """What every corpus offers."""

  def documents(
    self, split: str, *, utf8: bool = False, left_out: LeftOut | None = None
  ) -> Iterator[Document]: ...

  def fingerprint(self, folder: str | Path | None = None) -> str: ...


@dataclasses.dataclass(frozen=True)
class Text:
  """A text file, a folder of them, or a glob pattern; packed ones too.

  Each file is a document, in order of names. Without `split`: by document if
  there are at least three, otherwise by bytes. Empty files are left out and
  counted. `damaged`: where the tokenizer reads characters, a file that is not
  UTF-8 is an error ('refuse'), or left out as a whole and counted ('skip',
  which reads every file once more for it).
  """

  path: str = ''
  split: ByDocument | ByBytes | ByName | None = None
  damaged: str = 'refuse'

  def __post_init__(self):
    check_damaged(self.damaged)

  def documents(
    self, split: str, *, utf8: bool = False, left_out: LeftOut | None = None
  ) -> Iterator[Document]:
    found = [file.document() for file in find_files(self.path)]
    utf8 = utf8 and self.damaged == 'skip'
    documents = usable(found, self.path, left_out, utf8=utf8)
    rule = self.split
    if rule is None:
      rule = ByDocument() if len(documents) > 2 else ByBytes()
    return rule.documents(documents, split)

  def fingerprint(self, folder: str | Path | None = None) -> str:
    files = find_files(self.path)
    found, chosen = fingerprint(files, folder), choice_hashed(self.damaged)
    return digest('text', found, repr(self.split), *chosen)


@dataclasses.dataclass(frozen=True)
class Stdlib:
  """The source of the standard library of the Python that runs this.

  Every module is a document, in order of names; no tests, no site-packages.
  Empty ones are left out and counted.
  """

  split: ByDocument = dataclasses.field(default_factory=ByDocument)

  def documents(
    self, split: str, *, utf8: bool = False, left_out: LeftOut | None = None
  ) -> Iterator[Document]:
    found = [file.document() for file in _modules()]
    documents = usable(found, 'stdlib', left_out)
    return self.split.documents(documents, split)

  def fingerprint(self, folder: str | Path | None = None) -> str:
    found = fingerprint(_modules(), folder)
    return digest('stdlib', found, repr(self.split))


def usable(
  documents: Iterable[Document],
  path: str,
  left_out: LeftOut | None,
  *,
  utf8: bool = False,
) -> list[Document]:
  """The documents that have bytes and, if `utf8`, are UTF-8."""
  kept, out = [], left_out or LeftOut()
  out.kinds.clear()
  for document in documents:
    if document.is_empty():
      out.add(EMPTY, document.name)
    elif utf8 and not is_utf8(document.blocks):
      out.add(NOT_UTF8, document.name)
    else:
      kept.append(document)
  if not kept:
    raise ValueError(
      f'data.corpus.path={path} is an empty corpus: none of its documents has '
      f'text that can be read. Left out: {out}. Give the path of files that '
      'hold text, in UTF-8 unless you use data.tokenizer=bytes.'
    )
  return kept


def _modules() -> list[File]:
  root = Path(sysconfig.get_paths()['stdlib'])
  with reading(f'the standard library in {root}'):
    paths = [p.relative_to(root) for p in root.rglob('*.py')]
  files = [
    File(root / path, path.as_posix())
    for path in paths
    if not _NOT_MODULES & set(path.parts[:-1])
  ]
  if not files:
    raise ValueError(
      f'data.corpus=stdlib needs the source of the standard library, and '
      f'{root} holds none. Use another Python, or data.corpus=text with a path.'
    )
  return sorted(files, key=lambda file: file.name)
