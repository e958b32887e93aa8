"""Between steps: what is logged, measured, saved and traced, and when."""

import dataclasses
import math
import time
from types import SimpleNamespace

import jax
import pytest

from lctx.checkpoint import Checkpoints, CheckpointStore
from lctx.training.hooks import (
  Log,
  Save,
  Stopwatch,
  Trace,
  Validate,
)
from lctx.training.interrupt import Interrupted
from lctx.training.loop import Moment


class Metrics:
  """Keeps what would be written."""

  def __init__(self):
    self.records = []

  def write(self, step, values):
    self.records.append((step, dict(values)))


class Progress:
  """Keeps what would be shown."""

  def __init__(self):
    self.lines, self.updates = [], []

  def update(self, done, loss=None, speed=None):
    self.updates.append((done, loss))

  def say(self, text):
    self.lines.append(text)


def moment(step, stop=False, skipped=0, updates=None, **metrics):
  state = SimpleNamespace(
    skipped=skipped, updates=step if updates is None else updates
  )
  return Moment(step, state, metrics, waited=0.25, stop=stop)


@pytest.fixture
def log():
  def rate(updates):
    return 100.0 - updates

  return Log(
    Metrics(),
    Progress(),
    Stopwatch(),
    every=3,
    tokens=10,
    flops=0.0,
    rate=rate,
  )


def test_a_record_is_the_mean_of_the_steps_since_the_last(log):
  for step, loss in enumerate([1.0, 2.0, 6.0, 5.0, 7.0], start=1):
    log(moment(step, stop=step == 5, loss=loss))
  (first, one), (second, two) = log.metrics.records
  assert (first, one['loss']) == (3, 3.0)
  assert (second, two['loss']) == (5, 6.0)
  assert (one['tokens'], two['tokens']) == (30, 50)
  assert one['data_seconds'] == 0.25
  assert log.progress.updates[-1] == (5, 6.0)


def test_the_rate_is_of_the_updates_and_what_was_skipped_is_counted(log):
  log(moment(3, updates=1, loss=0.0))
  _, record = log.metrics.records[0]
  assert record['rate'] == 99.0
  assert record['skipped'] == 2


def test_tokens_per_second_leave_out_work_between_steps(log):
  log.stopwatch.restart()
  time.sleep(0.05)
  with log.stopwatch.paused(jax.numpy.zeros(())):
    time.sleep(0.5)
  log(moment(3, loss=0.0))
  _, record = log.metrics.records[0]
  assert 0.05 <= record['step_seconds'] < 0.3
  speed = record['tokens_per_second']
  assert speed == pytest.approx(10 / record['step_seconds'])


def validate(values, patience=2, every=1, steps=99):
  """A hook that measures these values, one after the other."""
  values = iter(values)
  return Validate(
    lambda state: {'bits': next(values)},
    Metrics(),
    Progress(),
    Stopwatch(),
    every,
    steps,
    metric='bits',
    patience=patience,
  )


def stops(hook, steps):
  found = []
  for step in range(1, steps + 1):
    told = moment(step)
    hook(told)
    found.append(told.stop)
  return found


def test_validation_ends_a_run_that_stopped_improving():
  hook = validate([3.0, 2.0, 2.5, 1.5, 1.6, 1.5])
  assert stops(hook, 6) == [False] * 5 + [True]  # equal is no better
  assert hook.over
  assert 'train.patience = 2' in hook.progress.lines[-1]


def test_without_patience_a_run_never_ends_early():
  assert not any(stops(validate([1.0] * 9, patience=0), 9))


def test_a_metric_that_is_not_a_number_is_no_better():
  assert stops(validate([2.0, math.nan, math.nan]), 3) == [False, False, True]


def test_validation_comes_every_so_many_steps_and_at_the_end():
  hook = validate([4.0, 3.0], every=3, steps=5)
  for step in range(1, 6):
    hook(moment(step, stop=step == 5))
  steps = [step for step, _ in hook.metrics.records]
  assert steps == [3, 5]
  assert hook.metrics.records[0][1] == {'valid/bits': 4.0}


def test_what_validation_remembers_goes_on_in_a_resumed_run():
  values = [3.0, 2.0, 2.5, 2.25]
  whole, first, second = validate(values), validate(values), validate([2.25])
  want = stops(whole, 4)
  got = stops(first, 3)
  second.recall(first.memory())
  assert got + stops(second, 1) == want
  assert second.memory() == whole.memory()


def test_what_validation_remembers_before_the_first_is_json():
  hook, again = validate([1.0]), validate([1.0])
  again.recall(hook.memory())
  assert hook.memory()['best'] is None
  assert again.best == math.inf


def test_a_run_that_is_stopped_between_validations_makes_none():
  hook = validate([], every=3)
  hook(moment(2, stop=True))
  assert not hook.owed


def test_a_signal_during_validation_stops_and_leaves_it_owed():
  hook, again = validate([1.0]), validate([1.0])

  def heard(state):
    raise Interrupted

  hook.measure = heard
  told = moment(1)
  hook(told)
  assert told.stop and told.validation is None
  assert not hook.metrics.records
  again.recall(hook.memory())
  assert again.owed
  again.validate(moment(1))
  assert (again.owed, again.best) == (False, 1.0)


class Store:
  def __init__(self):
    self.saved = []
    self.settings = Checkpoints(metric='bits')

  def save(self, step, state, meta, metrics):
    self.saved.append((step, meta, metrics))


def save(every=3):
  return Save(Store(), Stopwatch(), every, lambda: {'some': 'meta'})


def test_checkpoints_come_every_so_many_steps_after_validations_and_at_ends():
  hook = save()
  for step in range(1, 8):
    told = moment(step, stop=step == 7)
    told.validation = {'bits': 1.0} if step == 5 else None
    hook(told)
  assert hook.store.saved == [
    (3, {'some': 'meta'}, None),
    (5, {'some': 'meta'}, {'bits': 1.0}),
    (6, {'some': 'meta'}, None),
    (7, {'some': 'meta'}, None),
  ]


def test_a_run_that_may_be_lost_overwrites_no_good_checkpoint():
  hook = save(every=1)
  for step, skipped in enumerate([0, 1, 2, 0, 1], start=1):
    hook(moment(step, stop=step == 5, skipped=skipped))
  assert [step for step, *_ in hook.store.saved] == [1, 4]


def test_the_end_is_saved_if_its_validation_is_finite():
  """Whatever its own step was like: the last step of a run may be skipped."""
  hook = save(every=1)
  for step, (bits, skipped, stop) in enumerate(
    [(2.0, 1, True), (math.nan, 0, True), (2.0, 1, False)], start=1
  ):
    told = moment(step, stop=stop, skipped=skipped)
    told.validation = {'bits': bits}
    hook(told)
  assert [step for step, *_ in hook.store.saved] == [1]


def test_a_validation_made_up_for_ranks_the_checkpoint_that_is_there(tmp_path):
  settings = Checkpoints(metric='bits')
  state, bits = {'x': jax.numpy.arange(3.0)}, {'bits': 1.0}
  with CheckpointStore(tmp_path, settings) as store:
    store.save(3, state, {'owed': True})
    assert store.best_step is None
    store.save(3, {'x': state['x'] + 1}, {'owed': False}, bits)
    assert store.best_step == 3
  with CheckpointStore(tmp_path, settings) as store:
    assert store.best_step == 3
    restored = store.restore(state)
  assert restored.meta == {'owed': False}
  assert restored.state['x'].tolist() == [0, 1, 2]  # arrays as they were


@dataclasses.dataclass
class Profiler:
  """Stands in for jax.profiler."""

  calls: list

  def start_trace(self, folder):
    self.calls.append(('start', self.step))

  def stop_trace(self):
    self.calls.append(('stop', self.step))


@pytest.mark.parametrize(
  'start, steps, traced',
  [(0, 99, (10, 15)), (50, 99, (60, 65)), (0, 4, (1, 4)), (0, 15, (10, 15))],
)
def test_a_trace_holds_some_steps_of_any_run(
  monkeypatch, tmp_path, start, steps, traced
):
  profiler = Profiler([])
  monkeypatch.setattr(jax, 'profiler', profiler)
  hook = Trace(tmp_path, start, steps)
  for step in range(start + 1, steps + 1):
    profiler.step = step
    hook(moment(step, stop=step == steps))
  assert profiler.calls == [('start', traced[0]), ('stop', traced[1])]


def test_a_trace_under_way_is_written_when_the_run_is_stopped(
  monkeypatch, tmp_path
):
  profiler = Profiler([])
  monkeypatch.setattr(jax, 'profiler', profiler)
  hook = Trace(tmp_path, 0, 99)
  for step in range(1, 13):
    profiler.step = step
    hook(moment(step, stop=step == 12))
  assert profiler.calls == [('start', 10), ('stop', 12)]
