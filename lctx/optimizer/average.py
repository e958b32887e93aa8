"""The exponential moving average of the parameters."""

import jax
import jax.numpy as jnp

from lctx.types import Array, Params


def ema(old: Params, new: Params, decay: float, step: Array | int) -> Params:
  """Average of the parameters after update `step`, counted from 0.

  old + (1 - d) (new - old), d = min(decay, (1 + step) / (10 + step)): while
  few updates are made the average forgets its start quickly, so it needs no
  debiasing (TensorFlow's ExponentialMovingAverage). Start it at the initial
  parameters.
  """
  step = jnp.asarray(step, jnp.float32)
  kept = jnp.minimum(decay, (1 + step) / (10 + step))
  return jax.tree.map(lambda a, b: a + (1 - kept) * (b - a), old, new)
