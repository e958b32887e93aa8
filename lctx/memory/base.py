"""The seam of memories: what is read, what is written when a segment closes."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from lctx.kernels.source import Source
from lctx.patterns.base import Pattern
from lctx.positions.base import Sizes
from lctx.types import Array, Carry, Coords


class Layer(NamedTuple):
  """What a memory may use of the layer that asks it.

  The layer's keys and values, as they are carried, are project(norm(x)).
  """

  x: Array  # [B, S, D] behind the keys of its own segment
  norm: Callable[[Array], Array]  # before the projections, or no change
  project: Callable[[Array], tuple[Array, Array]]
  shared: Any  # what `once` gave
  sizes: Sizes


@dataclasses.dataclass(frozen=True)
class Memory:
  """No memory: each segment stands alone. Other memories refine this.

  A carry is one layer's, every leaf with leading axis B.
  """

  in_order: ClassVar[bool] = True  # all keys lie in steps known when compiling

  @property
  def length(self) -> int:
    """Steps before the segment that queries can look back at."""
    return 0

  def initial(self, batch: int, sizes: Sizes, dtype) -> Carry:
    """An empty memory."""
    return ()

  def patterns(self, pattern: Pattern) -> tuple[Pattern, ...]:
    """Of each of `sources`, in a model of this pattern."""
    return (pattern,)

  def summaries(self, segment: int) -> tuple[int, float]:
    """Keys that are made of a segment of that length, beside its own.

    And how many of them a query sees on average.
    """
    return 0, 0.0

  def check_segment(self, segment: int, field: str) -> None:
    """Raises ValueError where segments of this length, of `field`, are none."""

  def check(self, sizes: Sizes, pattern: Pattern, heads: Any) -> None:
    """Raises ValueError where it cannot serve such a model."""

  def once(self, param: Callable, sizes: Sizes, drop: Callable) -> Any:
    """What every layer shares; owned by the stack. `drop` is its dropout."""
    return None

  def sources(
    self, param: Callable, carry: Carry, near: Source, layer: Layer
  ) -> tuple[Source, ...]:
    """All that queries look at; `near` is their own segment.

    `param` makes the memory's own parameters in this layer.
    """
    return (near,)

  def last(self, carry: Carry) -> tuple[Array, Array] | None:
    """Where the last token read sat: document and offset [B] each.

    None = it is not known, and documents begin where they are seen first.
    """
    return None

  def write(
    self, carry: Carry, x: Array, k: Array, v: Array, at: Coords
  ) -> tuple[Carry, Array]:
    """The carry after this segment, and the memory's auxiliary loss."""
    return carry, jnp.zeros((), jnp.float32)

  def forget(self, carry: Carry, rows_B: Array) -> Carry:
    """Empties the memory of the rows where `rows_B` is true."""
    return carry

  def exchange(self, carry: Carry, rows_B: Array) -> Carry:
    """Row b with what row `rows_B[b]` remembers: memory of another text."""
    return jax.tree.map(lambda leaf: leaf[rows_B], carry)

  def for_inference(self) -> 'Memory':
    """The same memory in its cheapest form for a model that is not trained."""
    return self
