"""Which files a path stands for."""

import glob
import logging
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lctx.data.files import ARCHIVE, PACKED, File, reading

_log = logging.getLogger(__name__)

_TEXT = (
  '.txt .text .md .rst .tex .tokens .raw .log .csv .tsv .html .htm .xml .css '
  '.json .yaml .yml .toml .ini .cfg .py .pyi .ipynb .c .h .cc .cpp .cxx .hpp '
  '.cu .java .kt .scala .js .jsx .ts .tsx .go .rs .rb .php .pl .lua .r .jl .m '
  '.hs .ml .lisp .el .clj .swift .sh .bash .sql .vim .s .asm'
)
TEXT = frozenset(_TEXT.split())


def find_files(path: str, suffixes: frozenset[str] = TEXT) -> list[File]:
  """The files that `path` (a file, folder or glob) stands for, by name.

  Raises: ValueError that names data.corpus.path.
  """
  if not path:
    raise ValueError(
      'data.corpus.path is empty. Set it to a file, a folder, or a pattern '
      'such as --config.data.corpus.path=books/*.txt'
    )
  full = os.path.expandvars(os.path.expanduser(path))
  with reading(path):
    if os.path.isfile(full):
      root, paths = Path(full).parent, [Path(full)]
      _check_suffix(paths[0], suffixes)
    elif os.path.isdir(full):
      root, paths = Path(full), _known(_walk(full), suffixes, path)
    else:
      paths = [Path(p) for p in glob.glob(full, recursive=True)]
      paths = [p for p in paths if p.is_file()]
      if not paths:
        raise ValueError(_missing(path))
      paths = _known(paths, suffixes, path)
      root = Path(os.path.commonpath([p.parent for p in paths]))
    files = [f for p in paths for f in _members(root, p, suffixes)]
  return sorted(files, key=lambda file: file.name)


def _walk(folder: str) -> list[Path]:
  """Every file below, hidden ones and caches left out."""

  def refuse(error):
    raise error

  found = []
  for where, folders, names in os.walk(folder, onerror=refuse):
    folders[:] = [f for f in folders if not f.startswith(('.', '__pycache__'))]
    found += [Path(where, n) for n in names if not n.startswith('.')]
  return found


def _known(paths, suffixes, path: str) -> list[Path]:
  known = [p for p in paths if _suffix(p.name) in suffixes | {ARCHIVE}]
  if not known:
    raise ValueError(
      f'data.corpus.path={path} holds {len(paths)} files but none of a kind '
      f'we read ({_kinds(suffixes)}). Give the path of a file of such a kind.'
    )
  if len(known) < len(paths):
    _log.info(
      'corpus %s: %d files of other kinds left out',
      path,
      len(paths) - len(known),
    )
  return known


def _members(root: Path, path: Path, suffixes) -> Iterator[File]:
  name = PurePosixPath(path.relative_to(root)).as_posix()
  if path.suffix.lower() != ARCHIVE:
    yield File(path, name)
    return
  with zipfile.ZipFile(path) as archive:
    inside = [i.filename for i in archive.infolist() if not i.is_dir()]
  wanted = [m for m in inside if _suffix(m) in suffixes | {''}]
  if not wanted:
    raise ValueError(
      f'data.corpus.path: the archive {name} holds no file of a kind we read '
      f'({_kinds(suffixes)}). Unpack it, or give another path.'
    )
  if len(wanted) < len(inside):
    ignored = len(inside) - len(wanted)
    _log.info('corpus %s: %d members left out', name, ignored)
  for member in wanted:
    yield File(path, f'{name}/{member}', member)


def _check_suffix(path: Path, suffixes) -> None:
  if _suffix(path.name) not in suffixes | {'', ARCHIVE}:
    raise ValueError(
      f'data.corpus.path={path} has the suffix {path.suffix}, which we do not '
      f'read as text. We read {_kinds(suffixes)}, and files without a suffix. '
      'Convert or rename the file.'
    )


def _suffix(name: str) -> str:
  """What the name ends in once its compression is taken off."""
  bare = PurePosixPath(name)
  if bare.suffix.lower() in PACKED:
    bare = bare.with_suffix('')
  return bare.suffix.lower()


def _kinds(suffixes) -> str:
  packed = ' '.join((*PACKED, ARCHIVE))
  return f'{" ".join(sorted(suffixes))}, and these packed as {packed}'


def _missing(path: str) -> str:
  where = os.path.abspath(os.path.expandvars(os.path.expanduser(path)))
  return (
    f'data.corpus.path={path} names no file or folder (looked for {where}). '
    'Check the spelling, or give the full path.'
  )
