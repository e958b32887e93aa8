"""The state of a run: planned before it exists, the same on every mesh."""

import jax
import numpy as np
import optax
import pytest
import tiny

from lctx.sharding import mesh as meshes
from lctx.sharding.mesh import Mesh
from lctx.training.state import abstract_state, initial_state

ROWS = 8
ADAM = optax.adam(1e-3)
MODEL = tiny.transformer_xl(depth=1)


def plan(mesh=None, averaged=True):
  made = meshes.build(mesh or Mesh(data=1), None if mesh else jax.devices()[:1])
  return abstract_state(MODEL, ADAM, ROWS, made, averaged)


def begin(seed=0, mesh=None):
  return initial_state(MODEL, ADAM, seed, ROWS, plan(mesh))


@pytest.fixture(scope='module')
def alone():
  return begin()


@pytest.fixture(scope='module')
def sharded():
  return begin(mesh=Mesh(data=2, fsdp=4))


def plain(tree):
  def leaf(x):
    typed = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if typed else x)

  return jax.tree.map(leaf, tree)


def test_a_seed_gives_the_same_state_on_every_mesh(alone, sharded):
  jax.tree.map(np.testing.assert_array_equal, plain(alone), plain(sharded))


def test_the_state_lies_where_it_was_planned(sharded):
  def check(x, planned):
    assert (x.shape, x.dtype) == (planned.shape, planned.dtype)
    assert x.sharding.is_equivalent_to(planned.sharding, x.ndim)

  jax.tree.map(check, sharded, plan(Mesh(data=2, fsdp=4)))


def test_parameters_average_and_moments_are_split_alike(sharded):
  adam = sharded.moments[0]
  for tree in (sharded.average, adam.mu, adam.nu):
    jax.tree.map(
      lambda x, like: (
        x.sharding.is_equivalent_to(like.sharding, x.ndim)
        or pytest.fail(f'{x.sharding} is not {like.sharding}')
      ),
      tree,
      sharded.params,
    )
  query = sharded.params['layers']['attention']['query']
  assert query.addressable_shards[0].data.size * 4 == query.size


def test_a_run_begins_with_nothing_read_and_nothing_remembered(alone):
  assert (alone.step, alone.updates, alone.skipped) == (0, 0, 0)
  empty = MODEL.initial(ROWS)
  jax.tree.map(np.testing.assert_array_equal, alone.carry, empty)
  jax.tree.map(np.testing.assert_array_equal, alone.average, alone.params)


def test_the_average_is_what_is_evaluated_where_there_is_one(alone):
  other = jax.tree.map(lambda x: x + 1, alone.params)
  assert alone.replace(average=other).evaluated is other
  assert alone.replace(average=None).evaluated is alone.params
  assert plan(averaged=False).average is None
