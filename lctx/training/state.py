"""What a run is at a step: all that a checkpoint must hold to go on."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from lctx.models.text import Decoder
from lctx.sharding import rules
from lctx.types import Array, Carry, Params


@struct.dataclass
class State:
  """One pytree. `step` batches have been read: it is the data position too."""

  step: Array  # int32
  params: Params
  average: Params | None  # exponential moving average, where asked for
  moments: Any  # of the optimizer
  carry: Carry  # memory of every lane
  key: Array  # typed random key; step t uses fold_in(key, t)
  updates: Array  # int32: steps whose update was applied
  skipped: Array  # int32: steps in a row whose update was not

  @property
  def evaluated(self) -> Params:
    """The parameters to judge: their average where there is one."""
    return self.params if self.average is None else self.average


def abstract_state(
  model: Decoder,
  transform: optax.GradientTransformation,
  rows: int,
  mesh: Mesh,
  averaged: bool,
) -> State:
  """Shapes, types and shardings of every leaf; nothing is computed."""
  shapes = jax.eval_shape(
    _initial(model, transform, rows, averaged), jax.random.key(0)
  )
  params = rules.shardings(model.axes(), shapes.params, mesh)
  whole = rules.replicated(mesh)
  shardings = State(
    step=whole,
    params=params,
    average=params if averaged else None,
    moments=rules.follow(shapes.params, params, shapes.moments),
    carry=jax.tree.map(lambda _: rules.carry_sharding(mesh), shapes.carry),
    key=whole,
    updates=whole,
    skipped=whole,
  )
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def initial_state(
  model: Decoder,
  transform: optax.GradientTransformation,
  seed: int,
  rows: int,
  abstract: State,
) -> State:
  """The state before the first step, made where `abstract` wants it."""
  averaged = abstract.average is not None
  shardings = jax.tree.map(lambda x: x.sharding, abstract)
  make = _initial(model, transform, rows, averaged)
  return jax.jit(make, out_shardings=shardings)(jax.random.key(seed))


def with_params(state: State, params: Params, abstract: State) -> State:
  """The state with these parameters, where `abstract` wants them."""
  params = jax.tree.map(
    lambda x, wanted: jax.device_put(x, wanted.sharding),
    params,
    abstract.params,
  )
  average = state.average
  if average is not None:  # a copy: a step donates both
    average = jax.tree.map(jnp.copy, params)
  return state.replace(params=params, average=average)


def _initial(model, transform, rows, averaged):
  def make(key):
    params_key, run_key = jax.random.split(key)
    params = model.init_params(params_key)
    zero = jnp.zeros((), jnp.int32)
    return State(
      step=zero,
      params=params,
      average=params if averaged else None,
      moments=transform.init(params),
      carry=model.initial(rows),
      key=run_key,
      updates=zero,
      skipped=zero,
    )

  return make
