"""Text files on disk, packed or not, as documents."""

import bz2
import contextlib
import dataclasses
import gzip
import hashlib
import json
import logging
import lzma
import os
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lctx.data.documents import BLOCK, Document

_log = logging.getLogger(__name__)

PACKED = ('.gz', '.bz2', '.xz', '.zst')
ARCHIVE = '.zip'
_LARGE = 1 << 26  # bytes: the hash of such a file is remembered


@dataclasses.dataclass(frozen=True)
class File:
  """A file, or one member of a zip archive; iterating reads its blocks."""

  path: Path
  name: str  # within the corpus
  member: str = ''

  def __iter__(self) -> Iterator[bytes]:
    with reading(self.name):
      yield from self._blocks()

  def _blocks(self) -> Iterator[bytes]:
    suffix = self.path.suffix.lower()
    openers = {'.gz': gzip.open, '.bz2': bz2.open, '.xz': lzma.open}
    if suffix == '.zst':
      with open(self.path, 'rb') as stream:
        yield from _zstd_blocks(stream, self.name)
    elif suffix == ARCHIVE:
      archive = zipfile.ZipFile(self.path)
      with archive, archive.open(self.member) as stream:
        yield from _stream_blocks(stream)
    else:
      with openers.get(suffix, open)(self.path, 'rb') as stream:
        yield from _stream_blocks(stream)

  def size(self) -> int | None:
    if self.path.suffix.lower() in (*PACKED, ARCHIVE):
      return None
    with reading(self.name):
      return self.path.stat().st_size

  def document(self) -> Document:
    return Document(self.name, self, self.size())


@contextlib.contextmanager
def reading(name: str):
  """Turns what goes wrong while a file is read into the user's error."""
  broken = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
  locked = (RuntimeError, NotImplementedError)  # zip: password, odd method
  try:
    yield
  except (*broken, *locked) as error:
    raise ValueError(
      f'data.corpus.path: cannot read {name}: {type(error).__name__}: {error}. '
      'Check that the file is there, complete, and readable by you.'
    ) from error


def fingerprint(files: list[File], folder: str | Path | None = None) -> str:
  """Changes when a name or the contents of a file change, and only then.

  `folder` is where the hashes of large files are remembered.
  """
  total = hashlib.sha256()
  for file in files:
    total.update(file.name.encode() + b'\0')
    with reading(file.name):
      if file.path.suffix.lower() == ARCHIVE:
        with zipfile.ZipFile(file.path) as archive:
          info = archive.getinfo(file.member)
        total.update(f'{info.CRC} {info.file_size}'.encode())
      else:
        total.update(_hash(file.path, folder))
  return total.hexdigest()


def _hash(path: Path, folder: str | Path | None) -> bytes:
  """sha256 of a file; a large one is read again only when it has changed."""
  stat = path.stat()
  if folder is None or stat.st_size < _LARGE:
    return _read_hash(path)
  memory, name = Path(folder) / 'hashes.json', str(path.absolute())
  known, state = _remembered(memory), [stat.st_size, stat.st_mtime_ns]
  if known.get(name, [])[:2] != state:
    _log.info('hashing %s, %s bytes', path, f'{stat.st_size:,}')
    known[name] = [*state, _read_hash(path).hex()]
    _remember(memory, known)
  return bytes.fromhex(known[name][2])


def _read_hash(path: Path) -> bytes:
  with open(path, 'rb') as stream:
    return hashlib.file_digest(stream, 'sha256').digest()


def _remembered(memory: Path) -> dict[str, list]:
  """Size, time of change and hash of files, by path."""
  if not memory.is_file():
    return {}
  try:
    return dict(json.loads(memory.read_bytes()))
  except (OSError, ValueError, TypeError) as error:
    _log.warning('%s cannot be read (%s): it is made anew', memory, error)
    return {}


def _remember(memory: Path, known: dict[str, list]) -> None:
  try:
    write_whole(memory, json.dumps(known).encode())
  except OSError as error:
    _log.info('%s cannot be written (%s): hashed at each start', memory, error)


def write_whole(path: Path, data: bytes) -> None:
  """Writes a file that readers see complete or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.partial')
  try:
    partial.write_bytes(data)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def _stream_blocks(stream: BinaryIO) -> Iterator[bytes]:
  while block := stream.read(BLOCK):
    yield block


def _zstd_blocks(stream: BinaryIO, name: str) -> Iterator[bytes]:
  """Any number of frames; zstandard's own readers miss a cut file."""
  try:
    import zstandard
  except ImportError as error:
    raise ValueError(
      f'data.corpus.path: {name} is packed with Zstandard, and the package '
      "that reads it is not installed: pip install 'lctx[zstd]'"
    ) from error
  unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
  frame = None
  while packed := stream.read(BLOCK >> 4):
    while packed:
      frame = frame or unpacker.decompressobj()
      try:
        block = frame.decompress(packed)
      except zstandard.ZstdError as error:
        raise OSError(str(error)) from error
      if block:
        yield block
      packed = frame.unused_data if frame.eof else b''
      frame = None if frame.eof else frame
  if frame:
    raise EOFError('the file ends in the middle of a frame')
