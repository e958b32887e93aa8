"""Laws of a training step: parts of a batch, devices, memory, bad numbers."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from lctx.sharding import mesh as meshes
from lctx.sharding import rules
from lctx.sharding.mesh import Mesh
from lctx.training.state import State, abstract_state, initial_state
from lctx.training.step import Training, make_step
from lctx.types import Batch

ROWS, SEGMENT, COUNT = 8, 4, 3
EXACT = 1e-6
SGD = optax.sgd(1.0)  # the gradient is the parameters before minus after
ADAM = optax.chain(optax.clip_by_global_norm(0.25), optax.adam(1e-2, eps=1e-4))


class Run(NamedTuple):
  state: State
  metrics: dict[str, Any]  # by name, a number per step


def model_of(**fields):
  return tiny.transformer_xl(depth=1, memory_length=4, **fields)


def batch_of(seed: int) -> Batch:
  """Random text with borders of documents, and tokens that do not count."""
  random = np.random.default_rng(seed)
  shape = (ROWS, COUNT * SEGMENT)
  ids = random.integers(0, 29, (ROWS, COUNT * SEGMENT + 1), np.int32)
  borders = random.random(shape) < 0.1
  weight = random.random(shape) < np.linspace(0.2, 1, ROWS)[:, None]
  return Batch(
    tokens=ids[:, :-1],
    targets=ids[:, 1:],
    document=np.cumsum(borders, axis=1, dtype=np.int32),
    weight=weight.astype(np.float32),
  )


@functools.cache
def compiled(model, transform, settings):
  return make_step(model, transform, settings, SEGMENT)


def run(
  model, batches, transform=SGD, settings=None, mesh=None, change=lambda s: s
) -> Run:
  """The steps over `batches`, from parameters far from their start."""
  settings = settings or Training()
  mesh = mesh or meshes.build(Mesh(data=1), jax.devices()[:1])
  averaged = bool(settings.ema)
  abstract = abstract_state(model, transform, ROWS, mesh, averaged)
  state = initial_state(model, transform, 0, abstract)
  params = tiny.large_params(model)
  state = state.replace(
    params=params, average=jax.tree.map(jnp.copy, params) if averaged else None
  )
  state = change(state)
  state = jax.tree.map(
    lambda x, a: jax.device_put(x, a.sharding), state, abstract
  )
  step, found = compiled(model, transform, settings), []
  for batch in batches:
    batch = jax.device_put(batch, rules.batch_sharding(mesh))
    state, metrics = step(state, batch)
    found.append(jax.device_get(metrics))
  return Run(state, {k: np.array([m[k] for m in found]) for k in found[0]})


def assert_trees_close(close, got, want, tolerance=EXACT):
  jax.tree.map(lambda a, b: close(a, b, tolerance), got, want)


def assert_same(got, want):
  jax.tree.map(np.testing.assert_array_equal, numbers(got), numbers(want))


def numbers(tree):
  def leaf(x):
    typed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if typed else x)

  return jax.tree.map(leaf, tree)


def test_the_loss_is_the_mean_over_tokens_that_count(close):
  """And the gradient is of that mean, memory taken as given."""
  model, batch = model_of(), batch_of(1)

  def mean(params):
    carry, nats = model.initial(ROWS), []
    for start in range(0, COUNT * SEGMENT, SEGMENT):
      part = jax.tree.map(lambda x: x[:, start : start + SEGMENT], batch)
      hidden, carry = tiny.segment_of(
        model, params, part.tokens, part.document, carry
      )
      nll = model.apply({'params': params}, hidden, part.targets, method='nll')
      nats.append((nll * part.weight).sum())
      carry = jax.lax.stop_gradient(carry)
    return sum(nats) / batch.weight.sum()

  before = tiny.large_params(model)
  loss, grads = jax.jit(jax.value_and_grad(mean))(before)
  after = run(model, [batch])
  close(after.metrics['loss'][0], loss, EXACT)
  got = jax.tree.map(jnp.subtract, before, after.state.params)
  scale = max(np.abs(x).max() for x in jax.tree.leaves(grads))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * scale), got, grads
  )
  close(after.metrics['gradient_norm'][0], optax.global_norm(grads))


@pytest.mark.parametrize('parts', [2, 8])
def test_a_batch_in_parts_is_the_whole_batch(close, parts):
  """Rows have unequal numbers of tokens that count, so parts weigh unalike."""
  model, batches = model_of(), [batch_of(1), batch_of(2)]
  whole = run(model, batches, optax.sgd(0.1))
  cut = run(model, batches, optax.sgd(0.1), Training(accumulate=parts))
  for name in ('loss', 'gradient_norm'):
    close(cut.metrics[name], whole.metrics[name], 1e-5)
  assert_trees_close(close, cut.state.params, whole.state.params, 1e-5)
  assert_trees_close(close, cut.state.carry, whole.state.carry, 1e-5)


MESHES = [Mesh(data=8), Mesh(data=2, fsdp=4), Mesh(data=1, fsdp=8)]


@pytest.fixture(scope='module')
def unsharded():
  return run(model_of(), map(batch_of, range(3)), ADAM, Training(ema=0.9))


@pytest.mark.parametrize('mesh', MESHES, ids=str)
def test_sharded_is_unsharded(close, mesh, unsharded):
  batches = map(batch_of, range(3))
  got = run(model_of(), batches, ADAM, Training(ema=0.9), meshes.build(mesh))
  close(got.metrics['loss'], unsharded.metrics['loss'], EXACT)
  for name in ('params', 'average', 'moments', 'carry'):
    pair = (getattr(x.state, name) for x in (got, unsharded))
    assert_trees_close(close, *pair, 1e-5)
  assert_lies(got.state, mesh)


def assert_lies(state, mesh):
  """Each device holds its share of parameters and moments, and its rows."""
  held = sum(len(x.addressable_shards[0].data.ravel()) for x in leaves(state))
  whole = sum(x.size for x in leaves(state))
  assert whole / held == pytest.approx(mesh.fsdp, rel=0.05)
  for x in jax.tree.leaves(state.carry):
    assert x.addressable_shards[0].data.shape[1] == 1  # of 8 rows


def leaves(state):
  return [
    x
    for x in jax.tree.leaves((state.params, state.average, state.moments))
    if x.size > 1
  ]


def test_dropping_all_memory_trains_the_model_without_memory(close):
  batches = [batch_of(1), batch_of(2)]
  dropped = run(model_of(memory_dropout=1.0), batches)
  without = run(tiny.transformer_xl(depth=1, memory_length=0), batches)
  with_memory = run(model_of(), batches)
  close(dropped.metrics['loss'], without.metrics['loss'], EXACT)
  assert_trees_close(close, dropped.state.params, without.state.params, 1e-5)
  far = np.abs(dropped.metrics['loss'] - with_memory.metrics['loss'])
  assert far.min() > 1e-3


def test_dropout_is_decided_by_the_step_and_the_key():
  model, batch = model_of(dropout=0.3), batch_of(1)
  at = [
    run(model, [batch], change=lambda s: s.replace(step=jnp.int32(n)))
    for n in (5, 5, 6)
  ]
  other = run(model, [batch], change=lambda s: s.replace(key=jax.random.key(9)))
  losses = [float(x.metrics['loss'][0]) for x in [*at, other]]
  assert losses[0] == losses[1]
  assert len(set(losses)) == 3


FALLING = optax.scale_by_learning_rate(lambda n: 1.0 / (1 + n))  # by updates
AVERAGED = Training(ema=0.9)


def bad_batch() -> Batch:
  batch = batch_of(7)
  weight = batch.weight.copy()
  weight[0, 0] = np.inf
  return batch.replace(weight=weight)


def test_a_step_that_is_not_finite_changes_nothing_but_the_count():
  model = model_of()
  bad = run(model, [bad_batch()] * 2, FALLING, AVERAGED).state
  params = tiny.large_params(model)
  assert_same((bad.params, bad.average), (params, params))
  assert_same(bad.moments, FALLING.init(params))
  assert_same(bad.carry, model.initial(ROWS))
  assert (bad.step, bad.updates, bad.skipped) == (2, 0, 2)


def test_a_skipped_step_empties_memory_and_the_next_goes_on():
  """As if its batch had never been: rate, average and moments too."""
  model, good = model_of(), batch_of(1)
  alone = run(model, [good], FALLING, AVERAGED).state
  after = run(model, [bad_batch(), good], FALLING, AVERAGED).state
  assert (after.step, after.updates, after.skipped) == (2, 1, 0)
  for name in ('params', 'average', 'moments', 'carry', 'key'):
    assert_same(getattr(after, name), getattr(alone, name))
  again = run(model, [good, bad_batch(), good], FALLING, AVERAGED).state
  assert (again.updates, again.skipped) == (2, 0)
  fresh = run(
    model,
    [good],
    FALLING,
    AVERAGED,
    change=lambda _: alone.replace(carry=model.initial(ROWS)),
  ).state
  assert_same((again.params, again.average), (fresh.params, fresh.average))


def test_a_finite_loss_with_a_gradient_that_overflows_is_skipped():
  """The last norm scales to 1e20, so squares of gradients pass 1e38."""
  model = model_of()

  def poison(state):
    def leaf(path, x):
      return x * 1e20 if path[-1].key == 'scale' else x

    params = jax.tree_util.tree_map_with_path(leaf, state.params)
    return state.replace(params=params)

  got = run(model, [batch_of(1)], change=poison)
  assert np.isfinite(got.metrics['loss']).all()
  assert not np.isfinite(got.metrics['gradient_norm']).any()
  assert (got.state.updates, got.state.skipped) == (0, 1)


def test_a_parameter_that_is_not_a_number_is_never_spread():
  model = model_of()

  def poison(state):
    params = jax.tree.map(lambda x: x, state.params)
    params['layers']['attention'] = jax.tree.map(
      lambda x: x.at[(0,) * x.ndim].set(jnp.nan), params['layers']['attention']
    )
    return state.replace(params=params)

  got = run(model, [batch_of(1)] * 2, change=poison).state
  broken = sum(int(jnp.isnan(x).sum()) for x in jax.tree.leaves(got.params))
  assert broken == len(jax.tree.leaves(got.params['layers']['attention']))
  assert got.skipped == 2
