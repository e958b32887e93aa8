"""A run that no step can help ends, and what is left is good to go on from."""

import math
import types

import jax.numpy as jnp
import pytest

from lctx.checkpoint import Checkpoints, CheckpointStore
from lctx.training.guard import Guard, NotFiniteError
from lctx.training.loop import Moment


def run(store, skipped, start=0, every=3, max_skipped=4):
  """Tells a guard of steps from `start` on, each with its count of skips."""
  guard = Guard(store, max_skipped, every, start)
  for step, count in enumerate(skipped, start=start + 1):
    state = types.SimpleNamespace(skipped=jnp.int32(count))
    guard(Moment(step, state, {}, 0.0, stop=False))


@pytest.fixture
def store(tmp_path):
  with CheckpointStore(tmp_path, Checkpoints(keep_last=9)) as store:
    yield store


def save(store, *steps):
  for step in steps:
    store.save(step, {'x': jnp.full(3, 1.0 + step)}, {})


def test_too_many_skipped_steps_in_a_row_end_the_run_with_advice(store):
  run(store, [0, 1, 2, 3, 0, 1, 2, 3])
  with pytest.raises(NotFiniteError) as raised:
    run(store, [0, 1, 2, 3, 4, 5])
  for words in ('5 steps', 'step 6', 'train.max_skipped = 4', 'optimizer.peak'):
    assert words in str(raised.value)
  assert 'There is no checkpoint' in str(raised.value)


def test_a_checkpoint_that_no_finite_step_followed_is_taken_back(store):
  save(store, 1, 2)
  with pytest.raises(NotFiniteError, match='of step 1 is good'):
    run(store, [0, 0, 1, 2, 3, 4])
  assert store.steps == [1]


def test_a_checkpoint_that_a_finite_step_followed_stays(store):
  save(store, 1, 2)
  with pytest.raises(NotFiniteError, match='of step 2 is good'):
    run(store, [0, 0, 0, 1, 2, 3, 4, 5])
  assert store.steps == [1, 2]


def test_a_run_that_ends_broken_says_what_is_good_and_keeps_nothing_else(store):
  save(store, 1, 2)
  guard = Guard(store, max_skipped=9, every=9, start=0)
  state = types.SimpleNamespace(skipped=jnp.int32(1))
  broken = {'bits_per_token': math.nan}
  guard(Moment(3, state, {}, 0.0, stop=False, validation=broken))
  with pytest.raises(NotFiniteError, match=r'token nan.* step 1 is good'):
    guard(Moment(3, state, {}, 0.0, stop=True, validation=broken))
  assert store.steps == [1]
  guard(
    Moment(4, state, {}, 0.0, stop=True, validation={'bits_per_token': 1.0})
  )


def test_what_a_run_went_on_from_is_not_its_to_take_back(store):
  save(store, 1, 2)
  with pytest.raises(NotFiniteError, match='without one finite step') as raised:
    run(store, [1, 2, 3, 4], start=2)
  assert str(store.folder / '2') in str(raised.value)
  assert store.steps == [1, 2]
