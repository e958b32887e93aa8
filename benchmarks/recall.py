"""Texts that ask for what was said many segments before.

The first segment says eight values, each behind a key of two tokens; segments
that look the same follow, with values under other keys that nobody asks for;
the last segment asks for the first eight by their keys, in another order. So a
memory may learn to keep what a document begins with. Keys of tests occur in no
text of training.

    first second SAY value ...  first second SAY value ...  first second ASK ?

The answer is due at ASK, whose own vector tells neither token of the key: where
it was due at `second`, attention to memory tokens took that for the key.
"""

import dataclasses

import numpy as np

from lctx.types import Batch

PAIRS, VALUES, HALF = 8, 32, 12  # a key is two of HALF tokens
FIRST, SECOND = VALUES, VALUES + HALF
SAY, ASK, BLANK = (VALUES + 2 * HALF + i for i in range(3))
VOCAB, SEGMENT, CHANCE = BLANK + 1, 4 * PAIRS, 1 / VALUES
HELD_OUT = 36  # of all keys, for tests


@dataclasses.dataclass(frozen=True)
class Recall:
  """Texts of a gap: 1 = asked in the segment behind the one that says it.

  Of a gap of 0, one segment says half as many, and asks for them.
  """

  gap: int
  held_out: bool = False

  @property
  def segments(self) -> int:
    return self.gap + 1

  @property
  def pairs(self) -> int:
    return PAIRS if self.gap else PAIRS // 2

  @property
  def asked(self) -> slice:
    """The tokens whose targets are answers."""
    return slice(2 - 4 * self.pairs, None, 4)

  def batch(self, rows: int, seed: int) -> Batch:
    """Each row is a document of its own; only answers count."""
    random = np.random.default_rng((seed, self.gap, self.held_out))
    keys = np.random.default_rng(0).permutation(HALF**2)
    keys = keys[:HELD_OUT] if self.held_out else keys[HELD_OUT:]
    count, said = self.pairs, self.pairs + max(0, self.gap - 1) * PAIRS
    order = random.random((rows, len(keys))).argsort(axis=1)
    others = random.integers(count, len(keys), (rows, said - count))
    others = np.take_along_axis(order, others, axis=1)
    key = keys[np.concatenate([order[:, :count], others], axis=1)]
    value = random.integers(0, VALUES, (rows, said))
    again = random.random((rows, count)).argsort(axis=1)
    asked, answers = (
      np.take_along_axis(x, again, axis=1) for x in (key[:, :count], value)
    )
    key = np.concatenate([key, asked], axis=1)
    value = np.concatenate([value, np.full_like(asked, BLANK)], axis=1)
    mark = np.full(key.shape, SAY)
    mark[:, -count:] = ASK
    tokens = np.stack(
      [FIRST + key // HALF, SECOND + key % HALF, mark, value], axis=2
    ).reshape(rows, -1)
    targets, weight = np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)
    targets[:, self.asked], weight[:, self.asked] = answers, 1
    return Batch(
      tokens.astype(np.int32),
      targets.astype(np.int32),
      np.full(tokens.shape, seed, np.int32),
      weight,
    )
