"""How a module declares a parameter: by shape and logical axes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

normal = nn.initializers.normal(stddev=0.02)  # Dai et al. 2019, their code


def declare(module: nn.Module) -> Callable[..., jax.Array]:
  """`param(name, shape, axes, init=normal)` for the parameters of `module`.

  `axes` name logical axes, one per dimension, never mesh axes. A part that asks
  twice gets the same parameter twice.
  """
  made = {}

  def param(name, shape, axes, init=normal):
    if name not in made:
      made[name] = module.param(
        name, nn.with_logical_partitioning(init, axes), shape, jnp.float32
      )
    assert made[name].shape == tuple(shape), (name, made[name].shape, shape)
    return made[name]

  return param


def within(param: Callable, prefix: str) -> Callable[..., jax.Array]:
  """A `param` for one of several parts of an owner: its names begin alike."""

  def inner(name, *described):
    return param(f'{prefix}_{name}', *described)

  return inner


class Owner(nn.Module):
  """Owns the parameters of a part, which asks for them: part(param, ...).

  A part is a frozen dataclass, so that a config can hold it and one can serve
  several places. Each place is an owner: Owner(norm, name='norm_0')(x).
  """

  part: Any

  @nn.compact
  def __call__(self, *args):
    return self.part(declare(self), *args)


def around_one(key, shape, dtype):
  """Norm scales begin near one, as published."""
  return 1 + normal(key, shape, dtype)
