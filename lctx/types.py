"""The letters, and the values that every room of the house passes on.

Letters in array names: B batch, T queries, S keys, D width, N heads, K key
heads, H head width, F hidden, V vocabulary, M memory slots, L layers,
P distances, G blocks of tokens, 1 broadcast. A bare x or y is BTD.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Array = jax.Array
Params = Any  # a nested dict of arrays
Carry = Any  # a pytree: what a model remembers between segments

EMPTY = -1  # the document of a slot that holds nothing
NOBODY = 2**30  # and of what stands in a row but belongs to no text
GLOBAL, PREFIX = 1, 2  # bits of a role
TYPE = 8  # role >> TYPE is a token's type: 0 and 1 of the two texts of a pair
MASKED = -1e30  # a hidden logit; finite, so a row that sees nothing stays so


@struct.dataclass
class Coords:
  """Where tokens sit: int32 [B, L] each.

  `start` is a promise known at compile time: counted from some origin of its
  row, the index begins there and rises by `step` from token to token. Queries
  and keys of one source count from the same origin. So a relative table is
  read by a shift instead of a gather. None promises nothing.
  """

  index: Array  # order in the stream, rebased per segment; masks compare it
  position: Array  # what relative position schemes see
  offset: Array  # tokens of its document before it: absolute schemes, sinks
  document: Array  # counts up along a lane; EMPTY = nothing here
  segment: Array  # index at which this token's segment starts
  role: Array  # bits
  start: int | None = struct.field(pytree_node=False, default=None)
  step: int = struct.field(pytree_node=False, default=1)

  @property
  def length(self) -> int:
    return self.index.shape[-1]

  def take(self, start: int, stop: int) -> 'Coords':
    """The tokens in slots start to stop - 1."""
    known = None if self.start is None else self.start + start * self.step
    return jax.tree.map(lambda a: a[:, start:stop], self).replace(start=known)

  def shifted(self, steps: int) -> 'Coords':
    """The same tokens, counted from an origin `steps` later."""
    return self.replace(
      index=self.index - steps,
      position=self.position - steps,
      segment=self.segment - steps,
      start=None if self.start is None else self.start - steps,
    )


def segment_coords(document_BT: Array, start: int = 0) -> Coords:
  """Coordinates of one segment whose first token has index `start`."""
  zeros = jnp.zeros_like(document_BT)
  steps = jnp.arange(document_BT.shape[1], dtype=jnp.int32)
  index = zeros + start + steps[None]
  return Coords(
    index=index,
    position=index,
    offset=jnp.where(document_BT == EMPTY, 0, run_lengths(document_BT)),
    document=document_BT,
    segment=zeros + start,
    role=zeros,
    start=start,
  )


def join(first: Coords, second: Coords) -> Coords:
  """`second` right after `first`."""
  known = first.start is not None and second.start is not None
  known = known and first.step == second.step == 1
  adjacent = known and first.start + first.length == second.start
  start = first.start if adjacent else None
  return jax.tree.map(
    lambda a, b: jnp.concatenate([a, b], axis=1),
    first.replace(start=start),
    second.replace(start=start),
  )


class Beside(NamedTuple):
  """What stands beside a block of logits already, inside a fused kernel."""

  x: Array


def of_queries(x_BT: Array | Beside) -> Array:
  """As it stands beside a block of logits: [1, B, T, 1]."""
  return x_BT.x if isinstance(x_BT, Beside) else x_BT[None, :, :, None]


def of_keys(x_BS: Array | Beside) -> Array:
  """As it stands beside a block of logits: [1, B, 1, S]."""
  return x_BS.x if isinstance(x_BS, Beside) else x_BS[None, :, None, :]


def distance(q_at: Coords, k_at: Coords, of: str = 'index') -> Array:
  """Steps from key back to query, [1, B or 1, T, S]; negative = ahead.

  Masks go by the `index`, scores by the 'position'; they differ only for keys
  that are no tokens.
  """
  if q_at.start is None or k_at.start is None:
    return of_queries(getattr(q_at, of)) - of_keys(getattr(k_at, of))
  q_1T, k_1S = (
    jnp.arange(at.length, dtype=jnp.int32)[None] * at.step + at.start
    for at in (q_at, k_at)
  )
  return of_queries(q_1T) - of_keys(k_1S)


def offsets(document_BT: Array, document_B: Array, offset_B: Array) -> Array:
  """Tokens of its own document before each token, [B, T]; 0 for no token.

  The token before the first was of `document_B`, at `offset_B` in it.
  """
  runs_BT = run_lengths(document_BT)
  steps = jnp.arange(document_BT.shape[1], dtype=jnp.int32)[None]
  goes_on = (runs_BT == steps) & (document_BT == document_B[:, None])
  offset_BT = runs_BT + jnp.where(goes_on, offset_B[:, None] + 1, 0)
  return jnp.where(document_BT == EMPTY, 0, offset_BT)


def run_lengths(document_BT: Array) -> Array:
  """Tokens of its own document before each token, as far as they are here."""
  steps = jnp.arange(document_BT.shape[1], dtype=jnp.int32)[None]
  before = jnp.roll(document_BT, 1, axis=1)
  begins = (document_BT != before) | (steps == 0)
  first_BT = jax.lax.cummax(jnp.where(begins, steps, 0), axis=1)
  return steps - first_BT


@struct.dataclass
class Batch:
  """What one training step reads: [B, n] each, n a multiple of the segment.

  Row b of the next batch begins where row b of this one ended. Of pairs, an
  encoder reads `source` [B, s], in documents of the same numbers, and the rest
  is its decoder's.
  """

  tokens: Array | np.ndarray  # int32
  targets: Array | np.ndarray  # int32: the token after each token
  document: Array | np.ndarray  # int32: counts up along a lane; EMPTY = pad
  weight: Array | np.ndarray  # float32: 0 where the target does not count
  role: Array | np.ndarray | None = None  # int32: bits; None = all 0
  source: Array | np.ndarray | None = None  # int32
  source_document: Array | np.ndarray | None = None  # int32

  @property
  def coords(self) -> Coords:
    """Where its tokens sit, those of a segment or of one window."""
    at = segment_coords(self.document)
    return at if self.role is None else at.replace(role=self.role)
