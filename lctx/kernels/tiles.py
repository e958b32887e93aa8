"""Tiles: blocks of logits, cut from sources and put back into gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source, hidden, rotated
from lctx.patterns.base import Pattern
from lctx.positions.base import Score, Tile
from lctx.products import met
from lctx.types import EMPTY, MASKED, Array, Coords


class Plan(NamedTuple):
  """What is known of a source before anything is computed."""

  pattern: Pattern
  rows: int  # queries of a tile
  columns: int  # keys of a tile
  first: tuple[int, ...]  # for each block of queries, the blocks of keys that
  end: tuple[int, ...]  # it may see: from `first` to `end` - 1


@struct.dataclass
class Arrays:
  """What gradients reach: of a source, or of a tile (without its values)."""

  rotated: Array  # queries [B, T, N, H] as they meet keys
  q: Array  # as scores see them
  k: Array  # [B, S, K, H], rotated
  v: Array | tuple[()]
  scores: tuple[Score, ...]


class Places(NamedTuple):
  """Where the queries and keys of a source, or of a tile, sit."""

  q_at: Coords
  k_at: Coords
  heads: Array  # their numbers


class Around(NamedTuple):
  """What no gradient reaches."""

  places: tuple[Places, ...]
  dropout: Dropout | None


class Known(NamedTuple):
  """What the backward pass knows of a softmax, or of a block of its rows.

  It may be over more sets of keys than are at hand.
  """

  dy: Array  # [B, T, N, H]
  lse: Array  # float32 [N, B, T]: the `finite` log of each row's sum
  delta: Array  # float32 [N, B, T]: dy . y


class Made(NamedTuple):
  """A tile: its parts, what makes logits of them, and its place."""

  parts: Arrays
  v: Array
  logits: Callable[[Arrays], Array]
  at: Places
  where: Tile


def finite(lse: Array) -> Array:
  """0 for rows that see nothing: the backward pass subtracts it."""
  return jnp.where(lse <= MASKED / 2, 0, lse)


def equal(length: int, most: int) -> int:
  """The size of equal blocks, as few as there can be."""
  return -(-length // -(-length // most))


def prepared(
  source: Source, rows: int, columns: int
) -> tuple[Plan, Arrays, Places]:
  """A source filled up to whole tiles, its scores laid out along it."""
  more_q = -source.q.shape[1] % rows
  more_k = -source.k.shape[1] % columns
  q_BTNH, k_BSKH = rotated(source)
  q_at = longer_coords(source.q_at, more_q)
  k_at = longer_coords(source.k_at, more_k)
  arrays = Arrays(
    longer(q_BTNH, more_q),
    longer(source.q, more_q),
    longer(k_BSKH, more_k),
    longer(source.v, more_k),
    tuple(score.along(q_at, k_at) for score in source.scores),
  )
  first, end = seen_blocks(source.pattern.reach, q_at, k_at, (rows, columns))
  plan = Plan(source.pattern, rows, columns, first, end)
  return plan, arrays, Places(q_at, k_at, source.heads_N)


def longer(x: Array, count: int, value=0) -> Array:
  """[B, n, ...] with slots of this value behind."""
  if not count:
    return x
  width = (0, 0), (0, count), *((0, 0),) * (x.ndim - 2)
  return jnp.pad(x, width, constant_values=value)


def longer_coords(at: Coords, count: int) -> Coords:
  filled = jax.tree.map(lambda x: longer(x, count), at)
  return filled.replace(document=longer(at.document, count, EMPTY))


def seen_blocks(reach, q_at, k_at, sides):
  """Blocks of keys that each block of queries may see: firsts and ends."""
  (rows, columns), (before, after) = sides, reach
  q_blocks, k_blocks = q_at.length // rows, k_at.length // columns
  if q_at.start is None or k_at.start is None:
    return (0,) * q_blocks, (k_blocks,) * q_blocks
  q = q_at.start + rows * q_at.step * np.arange(q_blocks)[:, None]
  k = k_at.start + columns * k_at.step * np.arange(k_blocks)[None]
  seen = np.ones((q_blocks, k_blocks), bool)
  if before is not None:
    seen &= q - (k + (columns - 1) * k_at.step) <= before
  if after is not None:
    seen &= k - (q + (rows - 1) * q_at.step) <= after
  some = seen.any(axis=1)
  first = np.where(some, seen.argmax(axis=1), 0)
  end = np.where(some, k_blocks - seen[:, ::-1].argmax(axis=1), 0)
  return tuple(first.tolist()), tuple(end.tolist())


def tile(plan: Plan, arrays: Arrays, places: Places, i, j) -> Made:
  """Block i of the queries against block j of the keys."""
  where = Tile(
    i * plan.rows, plan.rows, j * plan.columns, plan.columns, places.q_at.length
  )
  at = Places(
    _cut_coords(places.q_at, where.query, where.queries),
    _cut_coords(places.k_at, where.key, where.keys),
    places.heads,
  )

  def logits(parts: Arrays) -> Array:
    s_NBTS = met(parts.rotated, parts.k)
    for score in parts.scores:
      s_NBTS = score.block(s_NBTS, parts.q, at.q_at, at.k_at)
    return s_NBTS + hidden(plan.pattern, *at)

  parts = Arrays(
    cut(arrays.rotated, where.query, where.queries),
    cut(arrays.q, where.query, where.queries),
    cut(arrays.k, where.key, where.keys),
    (),
    tuple(score.cut(where) for score in arrays.scores),
  )
  v_BSKH = cut(arrays.v, where.key, where.keys)
  return Made(parts, v_BSKH, logits, at, where)


def cut(x: Array, start, length: int, axis: int = 1) -> Array:
  if length == x.shape[axis]:
    return x
  return jax.lax.dynamic_slice_in_dim(x, start, length, axis)


def put(whole: Array, part: Array, start, axis: int = 1) -> Array:
  part = part.astype(whole.dtype)
  if part.shape == whole.shape:
    return part
  return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis)


def add(whole: Array, part: Array, start) -> Array:
  return put(whole, cut(whole, start, part.shape[1]) + part, start)


def _cut_coords(at: Coords, start, length) -> Coords:
  return jax.tree.map(lambda x: cut(x, start, length), at).replace(start=None)
