"""The seam of positions: a Position makes Scores, a Score changes logits."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lctx.types import Array, Coords


class Sizes(NamedTuple):
  """What a position scheme must know of the model around it."""

  width: int
  num_heads: int
  head_width: int
  distances: int  # the longest distance a query can look back, plus one
  dtype: Any  # of activations


class Tile(NamedTuple):
  """A block of logits, as a kernel computes them one after the other.

  `query` and `key` are the first of each, counted within their source.
  """

  query: int | Array
  queries: int
  key: int | Array
  keys: int
  length: int  # queries of the whole source


class Score:
  """A pytree of arrays, nothing closed over, that changes attention logits.

  Kernels that compute tiles call `along` once per source, then `cut` and
  `block` for each tile, and `put` for its gradient. Only a score that holds an
  array as long as the text has to refine them.
  """

  def rotate(
    self, q_BTNH: Array, k_BSNH: Array, q_at: Coords, k_at: Coords
  ) -> tuple[Array, Array]:
    """Changes queries and keys once per source, before they meet."""
    return q_BTNH, k_BSNH

  def block(
    self, s_NBTS: Array, q_BTNH: Array, q_at: Coords, k_at: Coords
  ) -> Array:
    """Changes a block of logits; `q_BTNH` is scaled but not rotated."""
    return s_NBTS

  def along(self, q_at: Coords, k_at: Coords) -> 'Score':
    """The same for one source, laid out so that tiles can be cut from it."""
    return self

  def cut(self, tile: Tile) -> 'Score':
    """What a tile needs of what `along` gave."""
    return self

  def put(self, total: 'Score', part: 'Score', tile: Tile) -> 'Score':
    """`total` with the gradient `part` of what `cut` gave added to it."""
    return jax.tree.map(jnp.add, total, part)


@dataclasses.dataclass(frozen=True)
class Position:
  """A position scheme. It holds no parameters: it asks their owner for them.

  Linen lets a module have one compact method, and a scheme has two places:
  what the stack shares and what a layer owns. So each place passes its own
  `param(name, shape, axes)`.
  """

  def check_width(self, width: int) -> None:
    """Raises ValueError where it cannot serve a model of this width."""

  def once(self, param: Callable, sizes: Sizes, drop: Callable) -> Any:
    """What every layer shares; owned by the stack. `drop` is its dropout."""
    return None

  def score(self, param: Callable, shared: Any, sizes: Sizes) -> Score:
    """The score of one layer, whose parameters that layer owns."""
    raise NotImplementedError
