"""Sines and cosines of a number of steps (Vaswani et al. 2017, 3.5)."""

import jax.numpy as jnp

from lctx.positions.base import Sizes
from lctx.types import Array


def sinusoid(steps: Array, width: int) -> Array:
  """[..., width]: sines, then cosines, of steps * 10000^(-2j / width)."""
  j = jnp.arange(0, width, 2, dtype=jnp.float32)
  rate = 1 / 10_000 ** (j / width)
  angle = steps[..., None].astype(jnp.float32) * rate.reshape(
    (1,) * steps.ndim + rate.shape
  )
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def check_even(name: str, sizes: Sizes, instead: str) -> None:
  """Raises ValueError for a width that sines and cosines cannot share."""
  if sizes.width % 2:
    raise ValueError(
      f'model.embed.width = {sizes.width} must be even for {name}: half of it '
      f'are sines, half cosines. Change the width, or use {instead}.'
    )
