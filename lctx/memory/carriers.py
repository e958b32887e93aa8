"""In which form a layer holds past states: as they came, or projected."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lctx.memory.held import Held, Segment, nowhere
from lctx.positions.base import Sizes
from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class Hidden:
  """States x [B, M, D] as the layer received them, projected when looked at.

  So gradients reach the projections of memory.
  """

  def shapes(self, sizes: Sizes) -> Any:
    """Of what a slot holds: a shape, or a tuple of them."""
    return (sizes.width,)

  def of_segment(self, segment: Segment) -> Any:
    """What is held of the tokens of a segment, leaves [B, T, ...]."""
    return segment.x

  def of_states(self, x: Array, layer: Any) -> Any:
    """What is held of other states [B, M, D]; `layer` is the `Layer`."""
    return x

  def keys_and_values(self, states: Any, layer: Any) -> tuple[Array, Array]:
    """Of what is held: [B, M, K, carried key width] and [B, M, K, H]."""
    return layer.keys_and_values(states)

  def empty(self, batch: int, slots: int, sizes, dtype) -> Held:
    """Slots that hold nothing."""
    states = jax.tree.map(
      lambda shape: jnp.zeros((batch, slots, *shape), dtype),
      self.shapes(sizes),
      is_leaf=lambda shape: isinstance(shape[0], int),
    )
    return Held(states, nowhere(batch, slots))


@dataclasses.dataclass(frozen=True)
class Projected(Hidden):
  """Keys, before any rotation, and values: nothing is projected twice.

  The same function where parameters stand still, so models that are not trained
  have it. In training it is another mechanism, that of Hutchins et al. 2022:
  projections learn from the segment alone, and what is remembered was projected
  with parameters of before.
  """

  def shapes(self, sizes):
    return sizes.carried

  def of_segment(self, segment):
    return segment.k, segment.v

  def of_states(self, x, layer):
    return layer.keys_and_values(x)

  def keys_and_values(self, states, layer):
    return states


HIDDEN, PROJECTED = Hidden(), Projected()
