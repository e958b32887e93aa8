"""The seam of positions: a Position makes Scores, a Score changes logits."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from lctx.positions.steps import Step
from lctx.types import Array, Coords


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Sizes:
  """What the parts of a layer must know of the model around them."""

  width: int
  num_heads: int
  key_heads: int  # fewer where several heads of queries share one
  head_width: int
  distances: int  # the longest distance a query can look back, plus one
  ahead: int  # the longest distance a query can look ahead
  dtype: Any  # of activations
  key_width: int  # channels of a key as it is carried
  logit_scale: float | None = None  # None = 1 / sqrt(head_width)
  scaled: bool = True  # whether embedded tokens are, by sqrt(width)

  @property
  def scale(self) -> float:
    """What logits, or queries before, are multiplied by."""
    if self.logit_scale is not None:
      return self.logit_scale
    return self.head_width**-0.5

  @property
  def carried(self) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shapes of a key and a value as a carry holds them."""
    heads = self.key_heads
    return (heads, self.key_width), (heads, self.head_width)


class Tile(NamedTuple):
  """A block of logits, as a kernel computes them one after the other.

  `query` and `key` are the first of each, counted within their source.
  """

  query: int | Array
  queries: int
  key: int | Array
  keys: int
  length: int  # queries of the whole source


@struct.dataclass
class Score:
  """A pytree of arrays, nothing closed over, that changes attention logits.

  This one changes nothing.

  Kernels that compute tiles call `along` once per source, then `cut` and
  `block` for each tile, and `put` for its gradient. Only a score that holds an
  array as long as the text has to refine them.

  A score that needs sums over whole rows first sets `folds`. Kernels then sum
  `fold` over all blocks of all sources, and use what `folded` makes of it.
  """

  folds: ClassVar[bool] = False
  everywhere: ClassVar[bool] = False  # the same for keys that are no tokens

  @property
  def only_rotates(self) -> bool:
    """Whether it changes no logits once queries and keys have met."""
    return type(self).block is Score.block

  def rotate(
    self, q_BTNH: Array, k_BSKH: Array, q_at: Coords, k_at: Coords
  ) -> tuple[Array, Array]:
    """Changes queries and keys once per source, before they meet."""
    return q_BTNH, k_BSKH

  def block(
    self, s_NBTS: Array, q_BTNH: Array, q_at: Coords, k_at: Coords
  ) -> Array:
    """Changes a block of logits; `q_BTNH` is scaled but not rotated."""
    return s_NBTS

  def steps(
    self, q_BTNH: Array, q_at: Coords, k_at: Coords
  ) -> tuple[Step, ...]:
    """What `block` does, along a whole source, for fused kernels.

    Raises NotImplementedError for a score that cannot say it in steps.
    """
    if not self.only_rotates:
      raise NotImplementedError(f'{type(self).__name__} has no steps')
    return ()

  def of_heads(self, heads_N: Any) -> 'Score':
    """The same for the heads of these numbers only.

    Must be refined by a score that has something for each head.
    """
    return self

  def fold(self, q_at: Coords, k_at: Coords, visible_NBTS: Array) -> Any:
    """Arrays [N or 1, B, T]: sums over the visible keys of a block."""
    raise NotImplementedError

  def folded(self, sums: Any) -> 'Score':
    """The score that knows its sums over all keys of all sources."""
    raise NotImplementedError

  def along(self, q_at: Coords, k_at: Coords) -> 'Score':
    """The same for one source, laid out so that tiles can be cut from it.

    Coordinates may be longer than the text by slots that are empty.
    """
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

  Linen lets a module have one compact method, and a scheme has three places:
  tokens, what the stack shares and what a layer owns. So each place passes its
  own `param(name, shape, axes)`.
  """

  meets_queries: ClassVar[bool] = False  # each query times relative keys,
  projects: ClassVar[bool] = False  # which layers project from distances

  @property
  def limit(self) -> int | None:
    """Tokens of a document that have a position; None = all of them."""
    return None

  @property
  def segment_limit(self) -> int | None:
    """Tokens of one segment that have a position; None = all of them."""
    return self.limit

  def of_layers(self, depth: int) -> tuple['Position', ...]:
    """The scheme of each layer of a stack."""
    return (self,) * depth

  def declared(self, length: int) -> 'Position':
    """The same for a call that reads and writes `length` tokens in all."""
    return self

  def check(self, sizes: Sizes) -> None:
    """Raises ValueError where it cannot serve a model of these sizes."""

  def embed(self, param: Callable, x: Array, at: Coords) -> Array:
    """Tokens [B, T, D] with what absolute schemes add to them."""
    return x

  def once(self, param: Callable, sizes: Sizes, drop: Callable) -> Any:
    """What every layer shares; owned by the stack. `drop` is its dropout."""
    return None

  def score(self, param: Callable, shared: Any, sizes: Sizes) -> Score:
    """The score of one layer, whose parameters that layer owns."""
    return Score()
