"""How a module declares a parameter: by shape and logical axes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

STD = 0.02  # Dai et al. 2019, their code
normal = nn.initializers.normal(stddev=STD)


@struct.dataclass
class Drawn(nn.LogicallyPartitioned):
  """The box of a parameter that begins as `normal`."""


def declare(module: nn.Module) -> Callable[..., jax.Array]:
  """`param(name, shape, axes, init=normal)` for the parameters of `module`.

  `axes` name logical axes, one per dimension, never mesh axes. A part that asks
  twice gets the same parameter twice.
  """
  made = {}

  def param(name, shape, axes, init=normal):
    if name not in made:
      box = Drawn if init is normal else nn.LogicallyPartitioned

      def boxed(*args):
        return box(init(*args), tuple(axes))

      made[name] = module.param(name, boxed, shape, jnp.float32)
    assert made[name].shape == tuple(shape), (name, made[name].shape, shape)
    return made[name]

  return param


def spread(boxes: Any, deviation: float) -> Any:
  """A tree of boxes, those that begin as `normal` with another deviation."""

  def leaf(box):
    if not isinstance(box, Drawn):
      return box
    return box.replace(value=box.value * (deviation / STD))

  return jax.tree.map(
    leaf, boxes, is_leaf=lambda box: isinstance(box, nn.meta.AxisMetadata)
  )


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
