"""A set of keys in no known order, as one of those of a fused kernel.

What stands for more than a token each (`memory.TransientGlobal`) lies at
distances that differ from query to query, so no row of terms serves a distance.
Such keys are few: they are met by tiles of plain JAX, in the same softmax.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from lctx.kernels import chunked
from lctx.kernels.dropout import Dropout
from lctx.kernels.flash_tiles import Upstream
from lctx.kernels.source import Source
from lctx.kernels.tiles import Around, Arrays, Known, Plan, equal, prepared
from lctx.types import MASKED, Array

SIDES = chunked.Chunked()


class Read(NamedTuple):
  """What is read of the set; gradients reach `arrays`."""

  arrays: Arrays
  around: Around | None


@dataclasses.dataclass(frozen=True)
class AnyOrder:
  """Forward and backward as a `Flash`, of [B, N, `length`, `width`]."""

  plan: Plan
  length: int
  width: int

  def forward(self, x: Read) -> tuple[Array, Array]:
    y_BTNH, lse_NBT = chunked.forward((self.plan,), (x.arrays,), x.around)
    y_BNTH = jnp.moveaxis(y_BTNH, 2, 1)
    return (
      _sized(y_BNTH, (self.length, self.width)),
      _sized(jnp.moveaxis(lse_NBT, 0, 1)[:, :, None], (1, self.length), MASKED),
    )

  def backward(self, x: Read, up: Upstream) -> Read:
    length, width = x.arrays.q.shape[1], x.arrays.v.shape[3]
    dy_BTNH = jnp.moveaxis(_sized(up.dy, (length, width)), 1, 2)
    lse_NBT, delta_NBT = (
      jnp.moveaxis(_sized(x_BN1T, (1, length))[:, :, 0], 1, 0)
      for x_BN1T in (up.lse, up.delta)
    )
    known = Known(dy_BTNH, lse_NBT, delta_NBT)
    (grads,) = chunked.backward((self.plan,), (x.arrays,), x.around, known)
    return Read(grads, None)


def any_order(
  source: Source, dropout: Dropout | None, length: int, width: int
) -> tuple[AnyOrder, Read]:
  """The set, and what it reads."""
  rows = equal(source.q.shape[1], SIDES.queries)
  columns = equal(source.k.shape[1], SIDES.keys)
  plan, arrays, places = prepared(source, rows, columns)
  read = Read(arrays, Around((places,), dropout))
  return AnyOrder(plan, length, width), read


def _sized(x: Array, sizes: tuple[int, int], value: float = 0) -> Array:
  """Its last axes cut or filled up to these sizes."""
  a, b = (min(have, size) for have, size in zip(x.shape[-2:], sizes))
  x, width = x[..., :a, :b], ((0, sizes[0] - a), (0, sizes[1] - b))
  return jnp.pad(x, ((0, 0), (0, 0), *width), constant_values=value)
