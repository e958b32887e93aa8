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
from lctx.training.state import State, abstract_state
from lctx.training.step import Training, make_step
from lctx.types import Batch

ROWS, SEGMENT, COUNT = 8, 4, 3
EXACT = 1e-6
# The rate falls with every update. The first mean of its moments is, after
# one step, a tenth of the gradient.
ADAM = optax.adam(lambda updates: 0.01 / (1 + updates), eps=1e-3)
AVERAGED = Training(ema=0.9)
ONE = meshes.build(Mesh(data=1), jax.devices()[:1])
FAST = {'xla_backend_optimization_level': 0}  # to compile


class Run(NamedTuple):
  state: State
  metrics: dict[str, Any]  # by name, a number per step


def model_of(**fields):
  return tiny.transformer_xl(depth=1, **{'memory_length': 4} | fields)


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


def columns(batch, start, stop) -> Batch:
  return jax.tree.map(lambda x: x[:, start:stop], batch)


def bad_batch() -> Batch:
  batch = batch_of(7)
  weight = batch.weight.copy()
  weight[0, 0] = np.inf
  return batch.replace(weight=weight)


def beginning(model) -> State:
  """Before the first step; parameters are far from where training begins."""
  params, zero = tiny.large_params(model), jnp.int32(0)
  return State(
    step=zero,
    params=params,
    average=params,
    moments=ADAM.init(params),
    carry=model.initial(ROWS),
    key=jax.random.key(0),
    updates=zero,
    skipped=zero,
  )


@functools.cache
def compiled(model, settings, mesh):
  abstract = abstract_state(model, ADAM, ROWS, mesh, True)
  batch = jax.device_put(batch_of(0), rules.batch_sharding(mesh))
  lowered = make_step(model, ADAM, settings, SEGMENT).lower(abstract, batch)
  return abstract, lowered.compile(FAST)


def run(model, batches, settings=AVERAGED, mesh=ONE, state=None) -> Run:
  """The steps over `batches`, from `state` or the beginning."""
  abstract, step = compiled(model, settings, mesh)
  state = jax.tree.map(
    lambda x, like: jax.device_put(jnp.copy(x), like.sharding),
    beginning(model) if state is None else state,
    abstract,
  )
  found = []
  for batch in batches:
    batch = jax.device_put(batch, rules.batch_sharding(mesh))
    state, metrics = step(state, batch)
    found.append(jax.device_get(metrics))
  return Run(state, {k: np.array([m[k] for m in found]) for k in found[0]})


def assert_trees_close(close, got, want, tolerance):
  jax.tree.map(lambda a, b: close(a, b, tolerance), got, want)


def assert_same(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_the_loss_is_the_mean_over_tokens_that_count(close):
  """And the gradient is of that mean, memory taken as given."""
  model, batch = model_of(), batch_of(1)

  def mean(params):
    carry, nats = model.initial(ROWS), []
    for start in range(0, COUNT * SEGMENT, SEGMENT):
      part = columns(batch, start, start + SEGMENT)
      hidden, carry = tiny.segment_of(
        model, params, part.tokens, part.document, carry
      )
      nll = model.apply({'params': params}, hidden, part.targets, method='nll')
      nats.append((nll * part.weight).sum())
      carry = jax.lax.stop_gradient(carry)
    return sum(nats) / batch.weight.sum()

  params = tiny.large_params(model)
  lowered = jax.jit(jax.value_and_grad(mean)).lower(params)
  loss, grads = lowered.compile(FAST)(params)
  after = run(model, [batch])
  close(after.metrics['loss'][0], loss, EXACT)
  close(after.metrics['gradient_norm'][0], optax.tree.norm(grads), EXACT)
  mu = jax.tree.map(lambda x: 10 * x, after.state.moments[0].mu)
  assert_trees_close(close, mu, grads, 1e-5)


def test_a_batch_in_parts_is_the_whole_batch(close):
  """Rows have unequal numbers of tokens that count, so parts weigh unalike."""
  model, batches = model_of(), [batch_of(1), batch_of(2)]
  whole = run(model, batches)
  cut = run(model, batches, Training(ema=0.9, accumulate=4))
  for name in ('loss', 'gradient_norm'):
    close(cut.metrics[name], whole.metrics[name], EXACT)
  assert_trees_close(close, cut.state.moments, whole.state.moments, 1e-5)
  assert_trees_close(close, cut.state.params, whole.state.params, 1e-5)
  assert_trees_close(close, cut.state.carry, whole.state.carry, 1e-5)


MESHES = [Mesh(data=8), Mesh(data=2, fsdp=4), Mesh(data=1, fsdp=8)]


@pytest.mark.parametrize('mesh', MESHES, ids=lambda m: f'{m.data}x{m.fsdp}')
def test_sharded_is_unsharded(close, mesh):
  batches = [batch_of(seed) for seed in range(3)]
  want = run(model_of(), batches)
  got = run(model_of(), batches, mesh=meshes.build(mesh))
  close(got.metrics['loss'], want.metrics['loss'], EXACT)
  assert_trees_close(close, got.state.params, want.state.params, 1e-5)
  assert_trees_close(close, got.state.average, want.state.average, 1e-5)
  assert_trees_close(close, got.state.carry, want.state.carry, 1e-5)
  assert_lies(got.state, mesh)


def assert_lies(state, mesh):
  """Every matrix and its moments are split over fsdp; a carry over all."""
  held = jax.tree.leaves((state.params, state.average, state.moments[0][1:]))
  for x in held:
    shard = x.addressable_shards[0].data
    parts = mesh.fsdp if 16 in x.shape[1:] else 1  # the width
    assert shard.size * parts == x.size
  for x in jax.tree.leaves(state.carry):
    assert x.addressable_shards[0].data.shape[1] == 1  # of 8 rows


def test_dropping_all_memory_trains_the_model_without_memory(close):
  batches = [batch_of(1), batch_of(2)]
  dropped = run(model_of(memory_dropout=1.0), batches)
  without = run(model_of(memory_length=0), batches)
  remembers = run(model_of(), batches)
  close(dropped.metrics['loss'], without.metrics['loss'], EXACT)
  assert_trees_close(close, dropped.state.params, without.state.params, 1e-5)
  far = np.abs(dropped.metrics['loss'] - remembers.metrics['loss'])
  assert far.min() > 1e-3


def test_dropout_is_decided_by_the_step_and_the_key():
  model, batch = model_of(dropout=0.3), [batch_of(1)]
  first = beginning(model)
  states = [
    first.replace(step=jnp.int32(5)),
    first.replace(step=jnp.int32(5)),
    first.replace(step=jnp.int32(6)),
    first.replace(step=jnp.int32(5), key=jax.random.key(9)),
  ]
  runs = [run(model, batch, state=state) for state in states]
  losses = [float(x.metrics['loss'][0]) for x in runs]
  assert losses[0] == losses[1]
  assert len(set(losses)) == 3


def test_a_step_that_is_not_finite_changes_nothing_but_the_counts():
  model = model_of()
  before, bad = beginning(model), run(model, [bad_batch()] * 2).state
  for name in ('params', 'average', 'moments', 'carry', 'updates'):
    assert_same(getattr(bad, name), getattr(before, name))
  assert (bad.step, bad.updates, bad.skipped) == (2, 0, 2)


def test_after_a_skipped_step_training_goes_on_with_an_empty_memory():
  """As if its batch had never been: rate, average and moments too."""
  model, good = model_of(), batch_of(1)
  once = run(model, [good]).state
  assert (once.step, once.updates, once.skipped) == (1, 1, 0)
  forgetful = once.replace(carry=model.initial(ROWS))
  want = run(model, [good], state=forgetful).state
  got = run(model, [good, bad_batch(), good]).state
  assert (got.step, got.updates, got.skipped) == (3, 2, 0)
  for name in ('params', 'average', 'moments', 'carry'):
    assert_same(getattr(got, name), getattr(want, name))


def test_a_finite_loss_with_a_gradient_that_overflows_is_skipped():
  """With a last norm's scale of 1e20, squares of gradients pass 1e38."""
  model = model_of()
  before = beginning(model)
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: x.at[-1].multiply(1e20) if path[-2].key == 'norm_1' else x,
    before.params,
  )
  got = run(model, [batch_of(1)], state=before.replace(params=params))
  assert np.isfinite(got.metrics['loss']).all()
  assert not np.isfinite(got.metrics['gradient_norm']).any()
  assert_same(got.state.params, params)
  assert (got.state.updates, got.state.skipped) == (0, 1)


def test_a_parameter_that_is_not_a_number_does_not_spread():
  model = model_of()
  before = beginning(model)
  params = jax.tree.map(lambda x: x, before.params)
  params['layers']['norm_0']['bias'] *= jnp.nan
  got = run(model, [batch_of(1)] * 2, state=before.replace(params=params))
  assert_same(got.state.params, params)
  assert got.state.skipped == 2
