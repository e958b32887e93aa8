"""The seam of memories: what is read, what is written when a segment closes."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from lctx.kernels.base import Kernel
from lctx.kernels.source import Source
from lctx.memory.held import Segment
from lctx.patterns.base import Pattern
from lctx.positions.base import Sizes
from lctx.types import Array, Carry, Coords


class Layer(NamedTuple):
  """What a memory may use of the layer that asks it.

  Keys, as they are carried, and values are project(norm(x)); queries(norm(x))
  are its queries, scaled.
  """

  tokens: Segment  # that are read now; their `y` is not known yet
  near: Source  # they, and the keys of their segment as far as it is read
  x: Array  # [B, S, D], of which those keys were made
  norm: Callable[[Array], Array]  # before the projections, or no change
  project: Callable[[Array], tuple[Array, Array]]
  queries: Callable[[Array], Array]
  kernel: Kernel
  shared: Any  # what `once` gave
  sizes: Sizes

  def keys_and_values(self, x: Array) -> tuple[Array, Array]:
    """Of states as the layer received them."""
    return self.project(self.norm(x))


@dataclasses.dataclass(frozen=True)
class Around:
  """Tokens without ids around the text of every segment; here none.

  The stack owns their parameters, and asks in this order: `first` when a
  segment begins, `last` when its text is read, `keep` when the stack has read
  these too.
  """

  before: int = 0
  after: int = 0

  @property
  def counts(self) -> tuple[int, int]:
    return self.before, self.after

  def initial(self, batch: int, sizes: Sizes, dtype) -> Carry:
    """What the stack carries of rows that have read nothing."""
    return ()

  def first(
    self, param: Callable, carry: Carry, sizes: Sizes
  ) -> tuple[Array, Array]:
    """States [B, before, D], and the document of each [B, before]."""
    raise TypeError(f'{type(self).__name__} has nothing before the text')

  def last(
    self, param: Callable, carry: Carry, place: Coords, sizes: Sizes
  ) -> Array:
    """States [B, after, D]; `place` is that of the last token of text."""
    raise TypeError(f'{type(self).__name__} has nothing after the text')

  def keep(
    self, param: Callable, carry: Carry, last: Array, place: Coords
  ) -> Carry:
    """The carry, given what the stack made of the last states."""
    return carry


@dataclasses.dataclass(frozen=True)
class Memory:
  """No memory: each segment stands alone. Other memories refine this.

  A carry is one layer's: any tree of `Held`, all leaves with leading axis B.
  Nothing may read a state that is not of the reader's own document.
  """

  in_order: ClassVar[bool] = True  # steps of all keys are known when compiling
  needs_bptt: ClassVar[bool] = False  # later segments teach it what to write

  @property
  def attends(self) -> bool:
    """Whether queries look at any tokens or states."""
    return True

  @property
  def length(self) -> int:
    """Steps before the segment that queries can look back at."""
    return 0

  @property
  def multiple(self) -> int:
    """What the length of every segment is a multiple of."""
    return 1

  @property
  def around(self) -> Around:
    """What stands around the text of every segment."""
    return Around()

  def of_layers(self, depth: int) -> tuple['Memory', ...]:
    """The memory of each layer of a stack."""
    return (self,) * depth

  def heads(self, num_heads: int) -> int:
    """How many heads the output projection joins, `mix` included."""
    return num_heads

  def patterns(self, pattern: Pattern) -> tuple[Pattern, ...]:
    """Of each of `sources`, in a model of this pattern."""
    return (pattern,)

  def flops(self, sizes: Sizes, segment: int) -> float:
    """Operations per token of a layer that reads segments of this length.

    Products only; the model counts those of keys `length` steps back.
    """
    return 0.0

  def check_segment(self, segment: int, field: str) -> None:
    """Raises ValueError, naming `field`, for a length of segment it forbids."""

  def check(self, sizes: Sizes, pattern: Pattern, heads: Any) -> None:
    """Raises ValueError where it cannot serve such a model."""

  def initial(self, batch: int, sizes: Sizes, dtype) -> Carry:
    """An empty memory."""
    return ()

  def once(self, param: Callable, sizes: Sizes, drop: Callable) -> Any:
    """What every layer shares; owned by the stack. `drop` is its dropout."""
    return None

  def enter(self, param: Callable, carry: Carry, x: Array, at: Coords) -> Array:
    """What the layer reads instead of x [B, T, D].

    `param`, here and below, makes the memory's own parameters in this layer.
    """
    return x

  def sources(
    self, param: Callable, carry: Carry, near: Source, layer: Layer
  ) -> tuple[Source, ...]:
    """All that queries look at.

    `near` is their own segment, after what another memory of the layer may
    have put in front of it.
    """
    return (near,)

  def mix(
    self, param: Callable, carry: Carry, y: Array, layer: Layer
  ) -> tuple[Array, Carry]:
    """What the heads give [B, T, heads, H], and the carry.

    `y` [B, T, N, H] is what they saw of the sources. Change the carry here
    only if the result does not depend on where segments are cut (GatedDelta);
    else in `write`.
    """
    return y, carry

  def leave(self, param: Callable, segment: Segment) -> Array:
    """What the next layer gets in place of the states after the text.

    Asked when the segment closes, with the layer's outputs in it.
    """
    return segment.after

  def write(
    self, param: Callable, carry: Carry, segment: Segment, layer: Layer
  ) -> tuple[Carry, Array]:
    """The carry once this segment is closed, and an auxiliary loss."""
    return carry, jnp.zeros((), jnp.float32)

  def for_inference(self) -> 'Memory':
    """The same memory in its cheapest form for a model that is not trained."""
    return self


def remembers(memory: Memory, sizes: Sizes) -> bool:
  """Whether a layer carries anything from segment to segment."""
  carry = jax.eval_shape(lambda: memory.initial(1, sizes, jnp.float32))
  around = jax.eval_shape(lambda: memory.around.initial(1, sizes, jnp.float32))
  return any(leaf.size for leaf in jax.tree.leaves((carry, around)))


def check_sees_all(memory: Memory, pattern: Pattern) -> None:
  """Raises ValueError for a pattern that hides some of a segment."""
  if pattern.reach.before is not None or not pattern.is_reach:
    raise ValueError(
      f'model.pattern = {pattern} hides some of a segment, but model.memory = '
      f'{type(memory).__name__.lower()} masks a segment by itself, or adds '
      'tokens that every query must see. Use model.pattern=causal.'
    )


def check_no_adaptive(memory: Memory, heads: Any, why: str) -> None:
  """Raises ValueError for heads that compare positions; `why` it has none."""
  if heads.adaptive is not None:
    raise ValueError(
      'model.heads.adaptive compares the positions of tokens, but model.memory '
      f'= {type(memory).__name__.lower()} {why}. Use one of the two.'
    )


def check_one_way(memory: Memory, pattern: Pattern) -> None:
  """Raises ValueError for a pattern that looks ahead."""
  if pattern.reach.after != 0:
    raise ValueError(
      f'model.pattern = {pattern} looks ahead, but model.memory = '
      f'{type(memory).__name__.lower()} is of what came before each token. Use '
      'model.pattern=causal, or a memory that is the same for a whole segment, '
      'such as infini.'
    )
