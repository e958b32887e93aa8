"""What a corpus leaves out: empty texts, and damaged ones where it is told to.

`data.corpus.damaged` is 'refuse', so that the first damaged text is an error,
or 'skip': such texts are left out whole, and counted by what is wrong with
them. Empty texts are left out and counted in any case.
"""

import codecs
import dataclasses
from collections.abc import Iterable

CHOICES = ('refuse', 'skip')
EMPTY = 'empty'
NOT_UTF8 = 'not UTF-8'


class Damaged(ValueError):
  """Why a text cannot be used; `kind` is what it is counted as."""

  def __init__(self, kind: str, message: str):
    super().__init__(message)
    self.kind = kind


@dataclasses.dataclass
class LeftOut:
  """Texts left out: of each kind how many, and the name of the first."""

  kinds: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)

  def add(self, kind: str, name: str, count: int = 1) -> None:
    before, first = self.kinds.get(kind, (0, name))
    self.kinds[kind] = before + count, first

  def __str__(self) -> str:
    found = [
      f'{count:,} {kind} (first: {name})'
      for kind, (count, name) in self.kinds.items()
    ]
    return ', '.join(found) or 'nothing'

  @property
  def damaged(self) -> bool:
    """Whether any was more than empty."""
    return bool(set(self.kinds) - {EMPTY})


def check_damaged(choice: str) -> None:
  if choice not in CHOICES:
    raise ValueError(
      f'data.corpus.damaged={choice!r} is no way to treat texts that cannot be '
      "read. Use 'refuse', which stops at the first of them, or 'skip', which "
      'leaves them out and counts them.'
    )


def choice_hashed(choice: str) -> tuple[str, ...]:
  """Its part of a fingerprint: nothing where nothing is skipped."""
  return () if choice == 'refuse' else (choice,)


def is_utf8(blocks: Iterable[bytes]) -> bool:
  """Whether a document, wherever its blocks end, is UTF-8 as a whole."""
  decoder = codecs.getincrementaldecoder('utf-8')()
  try:
    for block in blocks:
      decoder.decode(block)
    decoder.decode(b'', final=True)
  except UnicodeDecodeError:
    return False
  return True
