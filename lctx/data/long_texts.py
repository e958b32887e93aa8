"""What becomes of a text that is longer than a model reads at once."""

import dataclasses
import logging
from typing import NamedTuple

import numpy as np

_log = logging.getLogger(__name__)
CUTS = 'tail', 'head', 'middle'


class Part(NamedTuple):
  """Tokens of a text that are read together, by their places in it.

  What is said of those that count is said of the text; each of its tokens
  counts in one part at most.
  """

  place: np.ndarray  # int [n]
  counts: np.ndarray  # bool [n]


@dataclasses.dataclass(frozen=True)
class LongTexts:
  """A text is long that has more than `length` tokens, marks included.

  `length` None: more than the model has positions for. Where these do not end,
  no text is long.
  """

  length: int | None = None

  def __post_init__(self):
    if self.length is not None and self.length < 1:
      raise ValueError(
        f'data.long_texts.length = {self.length} counts the tokens of a text '
        'and must be at least 1, or none.'
      )

  def check(self, remembers: bool) -> None:
    """Raises ValueError where a model that `remembers` or not cannot do it."""

  def room(self, limit: int | None, besides: int) -> int | None:
    """Tokens of a text, `besides` others, of a model with `limit` positions."""
    ends = [x for x in (self.length, limit) if x is not None]
    return min(ends) - besides if ends else None

  def kept(self, limit: int | None) -> int:
    """Of the last tokens, those that a new window begins with where writing
    reaches the model's length; 0: it ends there."""
    return 0

  def parts(
    self,
    counts: list[int],
    rooms: list[int | None],
    what: str,
    *,
    ahead: bool,
  ) -> list[list[Part]]:
    """How texts of so many tokens are read, as many at once as have room.

    `ahead`: a token's states depend on those after it, too. The log says
    what becomes of how many, `what` they are.

    Raises:
      ValueError: a long text that cannot be read so.
    """
    given = list(zip(counts, rooms, strict=True))
    long = [x for x in given if _is_long(*x)]
    if not long:
      return [[_whole(n)] for n in counts]
    longest, room = min(long, key=lambda x: (x[1] > 0, x[1] - x[0]))
    said = (
      f'{len(long)} of {len(counts)} {what} are longer than there is room for: '
      f'one has {longest:,} tokens where {max(room, 0):,} have'
    )
    if room < 1:
      raise ValueError(f'{said}. Ask for less beside them.')
    try:
      made = [
        self._cut(*x, ahead) if _is_long(*x) else [_whole(x[0])] for x in given
      ]
    except ValueError as error:
      raise ValueError(f'{said}. {error}') from error
    read = sum(int(part.counts.sum()) for parts in made for part in parts)
    _log.warning(
      '%s. data.long_texts = %s: %s of %s tokens are read, in %s parts.',
      *(said, self, f'{read:,}', f'{sum(counts):,}'),
      f'{sum(map(len, made)):,}',
    )
    return made

  def _cut(self, count: int, room: int, ahead: bool) -> list[Part]:
    """The parts of a long text of `count` tokens, or ValueError: why none."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Refuse(LongTexts):
  """An error."""

  def _cut(self, count, room, ahead):
    raise ValueError(
      'Give shorter texts, or choose what becomes of them: data.long_texts='
      'truncate reads a part of each, stride reads them in windows, and carry '
      'wants a model whose memory reads on.'
    )


@dataclasses.dataclass(frozen=True)
class Truncate(LongTexts):
  """What there is room for is read: `cut` says where the rest is left out.

  'tail' or 'head'; 'middle' keeps as much of both ends (LongBench, Bai et al.
  2023).
  """

  cut: str = 'tail'

  def __post_init__(self):
    super().__post_init__()
    if self.cut not in CUTS:
      raise ValueError(
        f'data.long_texts.cut = {self.cut!r} is none of {", ".join(CUTS)}.'
      )

  def _cut(self, count, room, ahead):
    first = {'tail': room, 'head': 0, 'middle': room - room // 2}[self.cut]
    place = np.arange(count)
    kept = (place < first) | (place >= count - (room - first))
    return [Part(place[kept], np.ones(room, bool))]


@dataclasses.dataclass(frozen=True)
class Stride(LongTexts):
  """Windows over all of a text, each a text of its own.

  `overlap`: the share of a window that the one before has read, too. What is
  said of a token that two have read is said by the one that shows more of what
  its states depend on.
  """

  overlap: float = 0.5

  def __post_init__(self):
    super().__post_init__()
    if not 0 <= self.overlap < 1:
      raise ValueError(
        f'data.long_texts.overlap = {self.overlap} is a share of a window, '
        'from 0 to less than 1.'
      )

  def kept(self, limit):
    room = self.room(limit, 0)
    return 0 if room is None else min(max(self._shared(room), 1), room - 1)

  def _shared(self, room: int) -> int:
    return min(int(room * self.overlap), room - 1)

  def _cut(self, count, room, ahead):
    shared = self._shared(room)
    starts = [*range(0, count - room, room - shared), count - room]
    ends = [start + room for start in starts]
    borders = [
      (start + end) // 2 if ahead else end
      for start, end in zip(starts[1:], ends)
    ]
    return [
      Part(place, (place >= first) & (place < last))
      for place, first, last in zip(
        (np.arange(start, start + room) for start in starts),
        [0, *borders],
        [*borders, count],
      )
    ]


@dataclasses.dataclass(frozen=True)
class Carry(LongTexts):
  """Memory reads on: the model must have one, and positions without an end.

  Positions that begin anew with each segment have none.
  """

  def __post_init__(self):
    super().__post_init__()
    if self.length is not None:
      raise ValueError(
        f'data.long_texts.length = {self.length}, but what is carried on has '
        'no longest text. Leave it none.'
      )

  def check(self, remembers):
    if not remembers:
      raise ValueError(
        'data.long_texts = carry, but the model (of an encoder-decoder, its '
        'encoder) has no memory that could carry anything on. Give it one, '
        'such as model.memory=xlcache, or use truncate or stride.'
      )

  def _cut(self, count, room, ahead):
    raise ValueError(
      'data.long_texts = carry wants positions without an end. Use relative '
      'ones, or model.position.restarts=true.'
    )


def _is_long(count: int, room: int | None) -> bool:
  return room is not None and count > room


def _whole(count: int) -> Part:
  return Part(np.arange(count), np.ones(count, bool))
