"""The letters, and the values that every room of the house passes on.

Letters in array names: B batch, T queries, S keys, D width, N heads, K key
heads, H head width, F hidden, V vocabulary, M memory slots, L layers,
P distances, 1 broadcast. A bare x or y is BTD.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Array = jax.Array
Params = Any  # a nested dict of arrays
Carry = Any  # a pytree: what a model remembers between segments

EMPTY = -1  # the document of a slot that holds nothing


@struct.dataclass
class Coords:
  """Where tokens sit: int32 [B, L] each.

  `start` is a promise known at compile time: in every row alike, the index
  begins there and rises by one from token to token. It lets a relative table
  be read by a shift instead of a gather. None promises nothing.
  """

  index: Array  # order in the stream, rebased per segment; masks compare it
  position: Array  # what position schemes see
  document: Array  # counts up along a lane; EMPTY = nothing here
  segment: Array  # index at which this token's segment starts
  role: Array  # bits
  start: int | None = struct.field(pytree_node=False, default=None)

  @property
  def length(self) -> int:
    return self.index.shape[-1]

  def take(self, start: int, stop: int) -> 'Coords':
    """The tokens in slots start to stop - 1."""
    known = None if self.start is None else self.start + start
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
    document=document_BT,
    segment=zeros + start,
    role=zeros,
    start=start,
  )


def join(first: Coords, second: Coords) -> Coords:
  """`second` right after `first`."""
  known = first.start is not None and second.start is not None
  adjacent = known and first.start + first.length == second.start
  start = first.start if adjacent else None
  return jax.tree.map(
    lambda a, b: jnp.concatenate([a, b], axis=1),
    first.replace(start=start),
    second.replace(start=start),
  )


def distance(q_at: Coords, k_at: Coords) -> Array:
  """Steps from key back to query, [B or 1, T, S]; negative = key is ahead."""
  if q_at.start is None or k_at.start is None:
    return q_at.index[:, :, None] - k_at.index[:, None, :]
  q_T1 = jnp.arange(q_at.length, dtype=jnp.int32)[:, None] + q_at.start
  k_1S = jnp.arange(k_at.length, dtype=jnp.int32)[None] + k_at.start
  return (q_T1 - k_1S)[None]


@struct.dataclass
class Batch:
  """What one training step reads: [B, n] each, n a multiple of the segment.

  Row b of the next batch begins where row b of this one ended.
  """

  tokens: Array | np.ndarray  # int32
  targets: Array | np.ndarray  # int32: the token after each token
  document: Array | np.ndarray  # int32: counts up along a lane; EMPTY = pad
  weight: Array | np.ndarray  # float32: 0 where the target does not count
