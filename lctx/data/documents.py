"""A document: a name, and bytes that are read block by block."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator

BLOCK = 1 << 20  # bytes read at a time
LONGEST_LINE = 1 << 16  # bytes; a longer line is cut (text8 is one line)
SPLITS = ('train', 'valid', 'test')


@dataclasses.dataclass(frozen=True)
class Document:
  """One text with a name of its own.

  `blocks` can be read more than once, and where it is cut means nothing: a
  document may be larger than memory. `size` is its bytes, None where only
  reading it would tell.
  """

  name: str
  blocks: Iterable[bytes]
  size: int | None = None

  def num_bytes(self) -> int:
    if self.size is not None:
      return self.size
    return sum(len(block) for block in self.blocks)

  def is_empty(self) -> bool:
    if self.size is not None:
      return self.size == 0
    return not any(self.blocks)


@dataclasses.dataclass(frozen=True)
class Range:
  """The bytes `first` to `last` (not included) of some blocks."""

  blocks: Iterable[bytes]
  first: int
  last: int

  def __iter__(self) -> Iterator[bytes]:
    at = 0
    for block in self.blocks:
      wanted = block[max(0, self.first - at) : max(0, self.last - at)]
      at += len(block)
      if wanted:
        yield wanted
      if at >= self.last:
        return


def lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
  """The lines of a document, each with its newline if it has one.

  A line longer than LONGEST_LINE is cut after its last space within that
  length (without one: between two characters), so tokens depend on the text
  alone and never on where its blocks end.
  """
  rest = b''
  for block in blocks:
    *whole, rest = (rest + block).split(b'\n')
    for line in whole:
      *pieces, end = _cut(line + b'\n')
      yield from pieces
      yield end
    *pieces, rest = _cut(rest)
    yield from pieces
  if rest:
    yield rest


def _cut(line: bytes) -> list[bytes]:
  pieces = []
  while len(line) > LONGEST_LINE:
    end = line.rfind(b' ', 0, LONGEST_LINE) + 1
    if end == 0:
      end = LONGEST_LINE
      while line[end] & 0xC0 == 0x80 and end > LONGEST_LINE - 3:
        end -= 1
    pieces.append(line[:end])
    line = line[end:]
  return [*pieces, line]


def digest(*parts: str | bytes) -> str:
  """sha256 of several strings, in hex; no two lists of them look alike."""
  total = hashlib.sha256()
  for part in parts:
    data = part.encode() if isinstance(part, str) else part
    total.update(len(data).to_bytes(8, 'little') + data)
  return total.hexdigest()
