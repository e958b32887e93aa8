"""From relative rows to a tile of logits, and back: each query a row apart.

Inside a kernel, of T queries, S keys and the P = T + S rows between them.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from lctx.types import Array

GROUP = 8  # rows that a vector register holds


def skewed(x_TP: Array, keys: int) -> Array:
  """[T, S]: out[t, s] = x[t, T - 1 - t + s].

  The last query starts at the first row, and each one before it a row later.
  """
  return pltpu.roll(x_TP, keys + 1, 1, stride=1, stride_axis=0)[:, :keys]


def unskewed(ds_TS: Array) -> Array:
  """[T, P]: the gradient of what `skewed` was given.

  Row t moves right by T - 1 - t. The chip turns rows by steps that grow, not
  shrink, so groups of rows are turned last to first, and rows within a group
  by each power of two of which their distance is made.
  """
  queries, keys = ds_TS.shape
  groups, rows = queries // GROUP, queries + keys
  x_TP = jnp.concatenate([ds_TS, jnp.zeros((queries, queries))], axis=1)
  t_T1 = jax.lax.broadcasted_iota(jnp.int32, (queries, 1), 0)
  for steps in (1, 2, 4):
    moves = (queries - 1 - t_T1) & steps != 0
    x_TP = jnp.where(moves, pltpu.roll(x_TP, steps, 1), x_TP)
  x_GGP = _turned(x_TP.reshape(groups, GROUP, rows))
  x_GGP = pltpu.roll(x_GGP, 0, 2, stride=GROUP, stride_axis=0)
  return _turned(x_GGP).reshape(queries, rows)


def _turned(x: Array) -> Array:
  """Last to first."""
  return jnp.concatenate([x[n : n + 1] for n in reversed(range(x.shape[0]))])
