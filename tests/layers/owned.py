"""Parts with parameters drawn far from their start."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

KEY = jax.random.key(0)


def parameters(owner, *args, seed=0):
  """Every tensor large: matrices keep sizes, vectors are normal numbers."""
  random = np.random.default_rng(seed)

  def draw(leaf):
    size = math.sqrt(leaf.shape[0]) if len(leaf.shape) > 1 else 1.0
    return jnp.asarray(random.standard_normal(leaf.shape) / size, jnp.float32)

  return jax.tree.map(draw, nn.unbox(_abstract(owner, args)))


def axes(owner, *args):
  """The logical axes of every parameter, by name."""
  boxes = _abstract(owner, args)
  return {name: box.names for name, box in boxes.items()}


def wide(tree):
  """In float64 NumPy."""
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def states(*shape, seed=1, scale=1.0, dtype=jnp.float32):
  """Random numbers that are not centred."""
  random = np.random.default_rng(seed)
  return jnp.asarray(scale * (0.5 + random.standard_normal(shape)), dtype)


def _abstract(owner, args):
  variables = jax.eval_shape(lambda key: owner.init(key, *args), KEY)
  return variables.get('params', {})
