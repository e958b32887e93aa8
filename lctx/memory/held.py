"""What a layer holds: a segment that is being read, and states of the past."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from lctx.types import EMPTY, NOBODY, Array, Carry, Coords, join, segment_coords


@struct.dataclass
class Held:
  """States of a layer, oldest first, and where they sat.

  A cache holds M slots. One state of a whole past has the coordinates of the
  last token that went into it: `at` has length 1 then.
  """

  states: Any  # leaves [B, M, ...], of a whole past [B, ...]
  at: Coords  # [B, M]

  def of_same(self, at: Coords) -> Array:
    """Whether tokens [B, T] go on the document of the last slot."""
    document_B1 = self.at.document[:, -1:]
    return (at.document == document_B1) & (document_B1 >= 0)


@struct.dataclass
class Segment:
  """What a layer made of the tokens of a segment, in the slots of their index.

  Before and after the text may stand tokens without ids; `around` counts them.
  """

  x: Array  # [B, T, D] as the layer received it
  k: Array  # [B, T, K, carried key width]
  v: Array  # [B, T, K, H]
  y: Array  # [B, T, D] as it gave it on
  at: Coords
  around: tuple[int, int] = struct.field(pytree_node=False, default=(0, 0))

  @property
  def text(self) -> 'Segment':
    """Without what stands around the text."""
    before, after = self.around
    if not before and not after:
      return self
    stop = self.at.length - after
    arrays = (a[:, before:stop] for a in (self.x, self.k, self.v, self.y))
    return Segment(*arrays, self.at.take(before, stop))

  @property
  def after(self) -> Array:
    """The layer's outputs after the text, [B, after, D]."""
    return self.y[:, self.at.length - self.around[1] :]

  @property
  def filled(self) -> Array:
    """Tokens of text, int32 [B]."""
    return (self.text.at.document >= 0).sum(axis=1, dtype=jnp.int32)

  def add(self, x: Array, k: Array, v: Array, at: Coords) -> 'Segment':
    """With new tokens in the slots from at.index[:, 0] on, row by row.

    Tokens of the EMPTY document change nothing.
    """
    where = self.at.replace(
      document=put(self.at.document, at.document, at),
      offset=put(self.at.offset, at.offset, at),
    )
    pairs = (self.x, x), (self.k, k), (self.v, v)
    return Segment(
      *(put(old, new, at) for old, new in pairs), self.y, where, self.around
    )

  def give(self, y: Array, at: Coords) -> 'Segment':
    """With what the layer gave on of tokens that were added."""
    return self.replace(y=put(self.y, y, at))

  def emptied(self, rows_B: Array) -> 'Segment':
    document = jnp.where(rows_B[:, None], EMPTY, self.at.document)
    return self.replace(at=self.at.replace(document=document))


def put(old: Array, new: Array, at: Coords) -> Array:
  """`old` [B, S, ...] with `new` [B, T, ...] in the slots of `at`, by rows."""

  def row(old, new, start, valid):
    held = jax.lax.dynamic_slice_in_dim(old, start, new.shape[0], 0)
    kept = valid.reshape(-1, *(1,) * (new.ndim - 1))
    merged = jnp.where(kept, new.astype(old.dtype), held)
    return jax.lax.dynamic_update_slice_in_dim(old, merged, start, 0)

  if not new.shape[1]:
    return old
  return jax.vmap(row)(old, new, at.index[:, 0], at.document >= 0)


def nowhere(batch: int, length: int = 1) -> Coords:
  """Of slots before a segment that hold nothing yet."""
  return segment_coords(jnp.full((batch, length), EMPTY, jnp.int32), -length)


def pushed(held: Held, new: Any, at: Coords) -> Held:
  """A queue of M slots after new states [B, T, ...], which came `at`.

  Slots are counted from the end of what is new.
  """
  slots, length = held.at.length, at.length
  at = at.shifted(at.start or 0)
  states = jax.tree.map(
    lambda old, new: jnp.concatenate([old, new.astype(old.dtype)], axis=1)[
      :, length:
    ],
    held.states,
    new,
  )
  where = join(held.at, at).take(length, slots + length)
  return Held(states, where.shifted(length))


def place(at: Coords, before: Coords | None = None) -> Coords:
  """Where the last token of a segment sat, [B, 1].

  Where it has none: where the last of `before` did, or nowhere.
  """
  before = nowhere(at.document.shape[0]) if before is None else before
  held_BT = (at.document >= 0) & (at.document != NOBODY)
  steps_1T = jnp.arange(at.length, dtype=jnp.int32)[None]
  slot_B1 = jnp.where(held_BT, steps_1T, -1).max(axis=1, keepdims=True)

  def last(new_BT, old_BM):
    found = jnp.take_along_axis(new_BT, jnp.maximum(slot_B1, 0), axis=1)
    return jnp.where(slot_B1 >= 0, found, old_BM[:, -1:])

  return nowhere(at.document.shape[0]).replace(
    document=last(at.document, before.document),
    offset=last(at.offset, before.offset),
  )


def forgotten(carry: Carry, rows_B: Array) -> Carry:
  """Carries of layers [L, B, ...], emptied in the rows of `rows_B`."""

  def forget(held):
    gone_1B1 = rows_B[None, :, None]
    document = jnp.where(gone_1B1, EMPTY, held.at.document)
    return held.replace(at=held.at.replace(document=document))

  return _each(forget, carry)


def exchanged(carry: Carry, rows_B: Array) -> Carry:
  """Row b with the states of row `rows_B[b]`, in the slots that it sees.

  Carries of layers: leaves [L, B, ...].
  """
  return _each(
    lambda held: held.replace(
      states=jax.tree.map(lambda leaf: leaf[:, rows_B], held.states)
    ),
    carry,
  )


def where(rows_B: Array, new: Carry, old: Carry, axis: int = 0) -> Carry:
  """`new` in the rows of `rows_B`, else `old`; rows lie on `axis`."""

  def leaf(new, old):
    shape = [1] * new.ndim
    shape[axis] = -1
    return jnp.where(rows_B.reshape(shape), new, old)

  return jax.tree.map(leaf, new, old)


def last_read(carry: Carry) -> tuple[Array, Array] | None:
  """Where the last token read sat: document and offset [B] each.

  None = it is not known, and documents begin where they are seen first.
  """
  found = jax.tree.leaves(carry, is_leaf=lambda x: isinstance(x, Held))
  for held in found:
    if held.at.length:
      last = place(held.at)
      return last.document[:, 0], last.offset[:, 0]
  return None


def _each(change, carry: Carry) -> Carry:
  return jax.tree.map(change, carry, is_leaf=lambda x: isinstance(x, Held))
