"""What a model carries from segment to segment."""

import jax
import jax.numpy as jnp
from flax import struct

from lctx.memory.held import Segment
from lctx.models.cross import Context
from lctx.positions.base import Sizes
from lctx.types import EMPTY, Array, Carry, Coords, segment_coords


@struct.dataclass
class LayerCarry:
  """What a layer remembers: closed segments, and the open one if any.

  `cross`: keys and values of the context, where they are kept for decoding.
  """

  memory: Carry
  open: Segment | None = None
  cross: tuple[Array, Array] | None = None


def open_segment(
  batch: int, length: int, around: tuple[int, int], sizes: Sizes
) -> Segment:
  """An open segment for a text of `length` that holds nothing yet."""
  slots, (of_k, of_v) = length + sum(around), sizes.carried
  document = jnp.full((batch, slots), EMPTY, jnp.int32)
  x, k, v = (
    jnp.zeros((batch, slots, *shape), sizes.dtype)
    for shape in ((sizes.width,), of_k, of_v)
  )
  return Segment(x, k, v, x, segment_coords(document), around)


@struct.dataclass
class ModelCarry:
  """What a model remembers, and its open segments if it has any.

  `layers`, one entry a run: leaves [layers, B, ...]; `around`, what stands
  around the text, and `context`, what cross-attention looks at: [1, B, ...].
  """

  layers: tuple[LayerCarry, ...]
  around: Carry = ()
  context: Context | None = None

  @property
  def open(self) -> Segment | None:
    """That of the first layer; all hold the same tokens."""
    return jax.tree.map(lambda leaf: leaf[0], self.layers[0].open)

  def of_memory(self, change, rows_B: Array) -> 'ModelCarry':
    """`change(memory, rows_B)` of all memory; what is open stays."""
    layers = tuple(
      layer.replace(memory=change(layer.memory, rows_B))
      for layer in self.layers
    )
    return ModelCarry(layers, change(self.around, rows_B), self.context)


def per_layer(one: Carry, depth: int) -> Carry:
  """The same in each of `depth` layers."""
  return jax.tree.map(
    lambda leaf: jnp.broadcast_to(leaf[None], (depth, *leaf.shape)), one
  )


def first_layer(carry: Carry) -> Carry:
  return jax.tree.map(lambda leaf: leaf[0], carry)


def check_alike(carry: ModelCarry, wanted: ModelCarry, memory: str) -> None:
  """Raises ValueError for a carry that is not shaped and typed as `wanted`."""
  layers = tuple(layer.replace(open=None, cross=None) for layer in carry.layers)
  held = carry.replace(layers=layers, context=None)
  if jax.tree.structure(held) != jax.tree.structure(wanted):
    raise ValueError(
      f'The carry is of another kind than model.memory = {memory} makes. Begin '
      'with the carry that model.initial(rows) gives.'
    )
  named = jax.tree_util.tree_leaves_with_path(held)
  for (path, got), want in zip(named, jax.tree.leaves(wanted)):
    if (got.shape, got.dtype) != (want.shape, want.dtype):
      name = jax.tree_util.keystr(path, simple=True, separator='.')
      raise ValueError(
        f'carry.{name} is {got.dtype} of shape {got.shape}, but model.memory = '
        f'{memory} carries {want.dtype} of shape {want.shape} here. Use a '
        'carry that model.initial(rows) of this model began, with as many rows '
        'as there are texts.'
      )


def token_before(
  text: Segment, at: Coords, before: tuple[Array, Array] | None
) -> tuple[Array, Array]:
  """Document and offset [B] of the token before the first of `at`.

  `text` is open; `before`, those of the last token that is in memory, if they
  are known.
  """
  slot_B1 = at.index[:, :1] - 1
  found = (
    jnp.take_along_axis(x, jnp.maximum(slot_B1, 0), axis=1)[:, 0]
    for x in (text.at.document, text.at.offset)
  )
  nothing = jnp.full_like(slot_B1[:, 0], EMPTY)
  here_B = slot_B1[:, 0] >= 0
  return tuple(
    jnp.where(here_B, x, y) for x, y in zip(found, before or (nothing, nothing))
  )
