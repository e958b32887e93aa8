"""Texts that ask for what was said many segments before.

The first segment says eight values, each with a key of two tokens behind it;
segments that look the same follow, with values under other keys that nobody
asks for, which only the question can tell; the last segment asks for the first
eight by their keys, in another order. Keys of tests occur in no text of
training.

    SAY value first second ...  SAY value first second ...  ASK ? first second
"""

import dataclasses

import numpy as np

from lctx.types import Batch

PAIRS, VALUES, HALF = 8, 32, 16  # a key is two of HALF tokens
FIRST, SECOND = VALUES, VALUES + HALF
SAY, ASK, BLANK = (VALUES + 2 * HALF + i for i in range(3))
VOCAB, SEGMENT, CHANCE = BLANK + 1, 4 * PAIRS, 1 / VALUES
HELD_OUT = 64  # of all keys, for tests
ASKED = slice(3 - SEGMENT, None, 4)  # the tokens whose targets are answers


@dataclasses.dataclass(frozen=True)
class Recall:
  """Texts of a gap: 1 = asked in the segment behind the one that says it."""

  gap: int
  held_out: bool = False

  @property
  def segments(self) -> int:
    return self.gap + 1

  def batch(self, rows: int, seed: int) -> Batch:
    """Each row is a document of its own; only answers count."""
    random = np.random.default_rng((seed, self.gap, self.held_out))
    keys = np.random.default_rng(0).permutation(HALF**2)
    keys = keys[:HELD_OUT] if self.held_out else keys[HELD_OUT:]
    order = random.random((rows, len(keys))).argsort(axis=1)
    asked = keys[order[:, :PAIRS]]
    others = keys[
      np.take_along_axis(
        order, random.integers(PAIRS, len(keys), (rows, self.gap * PAIRS)), 1
      )
    ]
    values = random.integers(0, VALUES, (rows, self.gap * PAIRS))
    again = random.random((rows, PAIRS)).argsort(axis=1)
    asked_again, answers = (
      np.take_along_axis(x, again, axis=1) for x in (asked, values[:, :PAIRS])
    )
    between = others[:, : (self.gap - 1) * PAIRS]
    said = np.concatenate([asked, between, asked_again], axis=1)
    blank = np.full((rows, PAIRS), BLANK)
    values = np.concatenate([values, blank], axis=1)
    mark = np.full(said.shape, SAY)
    mark[:, -PAIRS:] = ASK
    tokens = np.stack(
      [mark, values, FIRST + said // HALF, SECOND + said % HALF], axis=2
    ).reshape(rows, -1)
    targets, weight = np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)
    targets[:, ASKED], weight[:, ASKED] = answers, 1
    return Batch(
      tokens.astype(np.int32),
      targets.astype(np.int32),
      np.full(tokens.shape, seed, np.int32),
      weight,
    )
