"""An optax rule that sees one parameter of one layer at a time."""

import math

import jax
import optax

from lctx.optimizer.axes import STACKED, Axes, each, sides
from lctx.types import Array, Params


def layer_by_layer(
  rule: optax.GradientTransformation, axes: Params
) -> optax.GradientTransformation:
  """The rule, shown a matrix or a vector at a time.

  By itself it would take its statistics over a whole stack of layers.
  """

  def init_one(names, param):
    return jax.vmap(rule.init)(_flat(names, param))

  def update_one(names, gradient, state, param):
    flat, state = jax.vmap(rule.update)(
      _flat(names, gradient), state, _flat(names, param)
    )
    return flat.reshape(gradient.shape), state

  def update(gradients, states, params):
    pairs = each(update_one, axes, gradients, states, params)
    updates = each(lambda names, pair: pair[0], axes, pairs)
    return updates, each(lambda names, pair: pair[1], axes, pairs)

  return optax.GradientTransformation(
    lambda params: each(init_one, axes, params), update
  )


def _flat(names: Axes, x: Array) -> Array:
  """[layers, inputs, outputs] of a matrix or table, else [layers, entries]."""
  stacked = [name in STACKED for name in names]
  assert stacked == sorted(stacked, reverse=True), names
  layers = math.prod(x.shape[: sum(stacked)])
  two = sides(names)
  if len(two) < 2:
    return x.reshape(layers, -1)
  return x.reshape(layers, math.prod(x.shape[i] for i in two[0]), -1)
