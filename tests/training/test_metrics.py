"""What a run writes down, and what it shows."""

import importlib.machinery
import io
import json
import os
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.backend.event_processing.event_file_loader import (
  EventFileLoader,
)

from lctx.training import metrics
from lctx.training.metrics import Logging, Metrics, open_metrics
from lctx.training.progress import Progress

QUIET = Logging(tensorboard=False)


def run(folder, start, end, config='{}', log=QUIET):
  with open_metrics(log, folder, step=start, config=config) as metrics:
    for step in range(start + 1, end + 1):
      metrics.write(step, {'train/loss': 10.0 / step, 'tokens': 100 * step})


def lines(folder):
  return (folder / 'metrics.jsonl').read_bytes()


def test_every_record_is_a_line_on_disk_at_once(tmp_path):
  with open_metrics(QUIET, tmp_path) as metrics:
    metrics.write(1, {'loss': jnp.float32(2.5), 'note': 'ü'})
    metrics.write(2, {'loss': np.float32('nan'), 'tokens': np.int64(7)})
    metrics.write(3, {'loss': float('-inf')})
    assert [json.loads(line) for line in lines(tmp_path).splitlines()] == [
      {'step': 1, 'loss': 2.5, 'note': 'ü'},
      {'step': 2, 'loss': None, 'tokens': 7},
      {'step': 3, 'loss': None},
    ]


def test_the_log_of_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path):
  run(tmp_path / 'whole', 0, 9)
  run(tmp_path / 'killed', 0, 7)  # its last checkpoint is of step 4
  with (tmp_path / 'killed' / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 8, "train/lo')
  run(tmp_path / 'killed', 4, 9)
  assert lines(tmp_path / 'killed') == lines(tmp_path / 'whole')


def test_a_damaged_line_is_dropped_and_named(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(
    metrics._log, 'warning', lambda line, *parts: said.append(line % parts)
  )
  run(tmp_path, 0, 3)
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(lines(tmp_path).replace(b'{"step": 2', b'{"stXp": 2'))
  run(tmp_path, 3, 4)
  assert [json.loads(x)['step'] for x in lines(tmp_path).splitlines()] == [
    1,
    3,
    4,
  ]
  assert len(said) == 1 and 'line 2' in said[0]


def test_tensorboard_reads_back_what_was_written(tmp_path):
  run(tmp_path, 0, 3, config='{"seed": 1}', log=Logging())
  [path] = (tmp_path / 'tensorboard').iterdir()
  values = [
    (event.step, value.tag, value.tensor)
    for event in EventFileLoader(str(path)).Load()
    for value in event.summary.value
  ]
  assert values[0][1] == 'config'
  assert b'{"seed": 1}' in values[0][2].string_val[0]
  losses = [
    (step, tensor.float_val[0])
    for step, tag, tensor in values
    if tag == 'train/loss'
  ]
  np.testing.assert_allclose(losses, [(1, 10), (2, 5), (3, 10 / 3)], rtol=1e-6)


def test_tensorboard_forgets_the_points_after_the_resumed_step(tmp_path):
  with open_metrics(Logging(), tmp_path) as metrics:
    for step in range(1, 8):
      metrics.write(step, {'loss': 1.0})
  with open_metrics(Logging(), tmp_path, step=4) as metrics:
    metrics.write(5, {'loss': 2.0})
  reader = event_accumulator.EventAccumulator(str(tmp_path / 'tensorboard'))
  reader.Reload()
  points = [(event.step, event.value) for event in reader.Scalars('loss')]
  assert points == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2)]


def test_tensorboard_needs_no_tensorflow_and_loads_none(tmp_path):
  for name in ('tensorflow', 'torch'):
    (tmp_path / f'{name}.py').write_text('raise AssertionError("imported")')
  code = (
    'import pathlib; from lctx.training.metrics import *\n'
    f'm = open_metrics(Logging(), pathlib.Path({str(tmp_path)!r}))\n'
    "m.write(1, {'loss': 1.0}); m.close()"
  )
  path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=os.environ | {'PYTHONPATH': path},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert list((tmp_path / 'tensorboard').iterdir())


def test_wandb_asked_for_and_missing_is_an_error_that_says_how(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r'log\.wandb.*lctx\[wandb\]'):
    open_metrics(Logging(wandb='project'), tmp_path)
  open_metrics(Logging(), tmp_path).close()


class FakeRun:
  """Stands for a run on a server."""

  def __init__(self, records):
    self.records = records

  def define_metric(self, name, step_metric):
    assert (name, step_metric) == ('*', 'step')

  def log(self, values):
    self.records.append(values)

  def finish(self):
    self.records.append('finished')


def test_wandb_gets_every_record_under_one_name_for_all_resumptions(
  tmp_path, monkeypatch
):
  runs = {}

  def init(project, id, resume, dir, config):
    assert (project, resume, config) == ('project', 'allow', {'seed': 1})
    return FakeRun(runs.setdefault(id, []))

  fake = types.ModuleType('wandb')
  fake.__spec__ = importlib.machinery.ModuleSpec('wandb', None)
  fake.init = init
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  log = Logging(tensorboard=False, wandb='project')
  run(tmp_path, 0, 1, '{"seed": 1}', log)
  run(tmp_path, 1, 2, '{"seed": 1}', log)
  first = {'step': 1, 'train/loss': 10.0, 'tokens': 100}
  second = {'step': 2, 'train/loss': 5.0, 'tokens': 200}
  assert list(runs.values()) == [[first, 'finished', second, 'finished']]


def test_metrics_without_writers_write_nothing():
  with Metrics([]) as metrics:
    metrics.write(1, {'loss': 1.0})


def test_records_cannot_be_less_than_a_step_apart():
  with pytest.raises(ValueError, match=r'log\.every = 0'):
    Logging(every=0)


class Clock:
  """Seconds that pass when told."""

  now = 0.0

  def __call__(self):
    return self.now


def test_a_file_gets_a_line_now_and_then_with_the_time_left():
  stream, clock = io.StringIO(), Clock()
  with Progress(1000, 100, stream=stream, clock=clock) as progress:
    for step in range(101, 1001):
      progress.update(step, 5.0 - step / 1000, 12345.6)
      clock.now += 0.125
    progress.say('done')
  said = stream.getvalue().splitlines()
  assert said[0] == 'step 101/1000, loss 4.899, 12,346 tokens/s'
  assert said[1] == 'step 181/1000, loss 4.819, 12,346 tokens/s, 01:42 left'
  assert said[-2].startswith('step 1000/1000, loss 4.000')
  assert said[-1] == 'done'
  assert len(said) == 14


class Terminal(io.StringIO):
  """Somebody looks at it."""

  def isatty(self):
    return True


def test_a_terminal_gets_a_bar_that_goes_on_where_the_run_resumed():
  stream = Terminal()
  with Progress(10, 4, stream=stream) as progress:
    progress.update(7, 2.0, 1500.0)
    progress.say('a line')
    progress.update(10, 1.25)
  shown = stream.getvalue()
  assert ' 4/10 ' in shown
  assert 'a line\n' in shown
  last = shown.strip().splitlines()[-1].split('\r')[-1]
  assert ' 10/10 ' in last and 'loss 1.250' in last
