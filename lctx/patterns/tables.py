"""How patterns look entries up in a table."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lctx.types import Array

LookUp = Callable[[Array, Array], Array]  # entries, of their rows and columns


def looked_up(table: Array, row: Array, column: Array) -> Array:
  """[..., T, S]: entries of a table [..., rows, columns].

  `row` is int32 [..., T, 1] and `column` [..., 1, S]; outside the table there
  are zeros. By products with rows of one 1, which are exact: an accelerator's
  products are faster than its look-ups, and a TPU's kernel has no look-up of
  this kind.
  """
  axes = row.ndim
  table = table.reshape((1,) * (axes - table.ndim) + table.shape)

  def number(axis):
    shape = [1] * axes
    shape[axis] = table.shape[axis]
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)

  row_TX = (row == number(axes - 1)).astype(jnp.float32)
  column_XS = (number(axes - 2) == column).astype(jnp.float32)
  return row_TX @ table @ column_XS
