"""Where text comes from: files, and Python's own standard library.

A corpus has two methods. `documents(split)` yields the documents of 'train',
'valid' or 'test', each with at least one byte. `fingerprint(folder)` is a
hash that changes when they do. It raises what is wrong with the source, and
remembers in the folder, if one is given, what would take long to hash again.
"""

import dataclasses
import logging
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from lctx.data.documents import Document, digest
from lctx.data.files import File, fingerprint, reading
from lctx.data.find import find_files
from lctx.data.splits import ByBytes, ByDocument, ByName

_log = logging.getLogger(__name__)

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

  def documents(self, split: str) -> Iterator[Document]: ...

  def fingerprint(self, folder: str | Path | None = None) -> str: ...


@dataclasses.dataclass(frozen=True)
class Text:
  """A text file, a folder of them, or a glob pattern; packed ones too.

  Each file is a document, in order of names. Without `split`: by document if
  there are at least three, otherwise by bytes.
  """

  path: str = ''
  split: ByDocument | ByBytes | ByName | None = None

  def documents(self, split: str) -> Iterator[Document]:
    found = [file.document() for file in find_files(self.path)]
    documents = drop_empty(found, self.path, split)
    rule = self.split
    if rule is None:
      rule = ByDocument() if len(documents) > 2 else ByBytes()
    return rule.documents(documents, split)

  def fingerprint(self, folder: str | Path | None = None) -> str:
    files = find_files(self.path)
    return digest('text', fingerprint(files, folder), repr(self.split))


@dataclasses.dataclass(frozen=True)
class Stdlib:
  """The source of the standard library of the Python that runs this.

  Every module is a document, in order of names; no tests, no site-packages.
  """

  split: ByDocument = dataclasses.field(default_factory=ByDocument)

  def documents(self, split: str) -> Iterator[Document]:
    documents = drop_empty([f.document() for f in _modules()], 'stdlib', split)
    return self.split.documents(documents, split)

  def fingerprint(self, folder: str | Path | None = None) -> str:
    found = fingerprint(_modules(), folder)
    return digest('stdlib', found, repr(self.split))


def drop_empty(
  documents: Iterable[Document], path: str, split: str
) -> list[Document]:
  """The documents that have bytes; says, for train, how many have none."""
  documents = list(documents)
  full = [document for document in documents if not document.is_empty()]
  if len(full) < len(documents) and split == 'train':
    empty = len(documents) - len(full)
    _log.info('corpus %s: %d empty documents left out', path, empty)
  if not full:
    raise ValueError(
      f'data.corpus.path={path} is an empty corpus: {len(documents)} documents '
      'and not one byte. Give the path of files that hold text.'
    )
  return full


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
