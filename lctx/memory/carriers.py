"""In which form a layer holds past states: as they came, or projected."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lctx.memory.held import Held, nowhere


class Hidden:
  """States x [B, M, D] as the layer received them, projected when looked at.

  So gradients reach the projections of memory.
  """

  def shapes(self, sizes):
    return (sizes.width,)

  def of_segment(self, segment):
    return segment.x

  def of_states(self, x, layer):
    return x

  def keys_and_values(self, states, layer):
    return layer.keys_and_values(states)

  def empty(self, batch: int, slots: int, sizes, dtype) -> Held:
    """Slots that hold nothing."""
    states = jax.tree.map(
      lambda shape: jnp.zeros((batch, slots, *shape), dtype),
      self.shapes(sizes),
      is_leaf=lambda shape: isinstance(shape[0], int),
    )
    return Held(states, nowhere(batch, slots))


class Projected(Hidden):
  """Keys, before any rotation, and values: nothing is projected twice.

  For a model whose parameters stand still. In training it is another mechanism,
  that of Hutchins et al. 2022: projections learn from the segment alone, and
  what is remembered was projected with parameters of before.
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


def projected(memory: Any, kind: type) -> Any:
  """The same memory of another kind, which holds what a layer projected."""
  fields = dataclasses.fields(memory)
  return kind(**{field.name: getattr(memory, field.name) for field in fields})
