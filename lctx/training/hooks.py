"""What happens between steps: log, validate, save, trace."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from lctx.checkpoint import CheckpointStore
from lctx.training.flops import utilisation
from lctx.training.interrupt import Interrupted
from lctx.training.loop import Moment
from lctx.training.metrics import Metrics
from lctx.training.progress import Progress
from lctx.training.state import State

_log = logging.getLogger(__name__)


class Stopwatch:
  """Seconds of training, without what goes on between steps."""

  def __init__(self):
    self._since = time.perf_counter()

  @contextlib.contextmanager
  def paused(self, state: State):
    """Work that is no training; first waits until `state` is computed."""
    jax.block_until_ready(state)
    began = time.perf_counter()
    yield
    self._since += time.perf_counter() - began

  def restart(self) -> float:
    """Seconds since the last restart."""
    now = time.perf_counter()
    passed, self._since = now - self._since, now
    return passed


@dataclasses.dataclass
class Log:
  """Writes the mean of the steps since the last record.

  `tokens` per step; `flops` of the model per token; `rate` by updates made.
  """

  metrics: Metrics
  progress: Progress
  stopwatch: Stopwatch
  every: int
  tokens: int
  flops: float
  rate: Callable

  def __post_init__(self):
    self._window: list[dict] = []
    self._waited = 0.0

  def __call__(self, moment: Moment) -> None:
    self._window.append(moment.metrics)
    self._waited += moment.waited
    if moment.step % self.every and not moment.stop:
      self.progress.update(moment.step)
      return
    window = jax.device_get(self._window)
    state = moment.state
    seconds, count = self.stopwatch.restart(), len(window)
    speed = self.tokens * count / seconds
    finite = [x for x in window if np.isfinite(list(x.values())).all()]
    if broken := count - len(finite):
      _log.warning(
        f'{broken} of the last {count} steps had no finite loss and gradient: '
        'they changed no parameter, and every lane went on with an empty '
        'memory.'
      )
    values = {
      name: float(np.mean([record[name] for record in finite or window]))
      for name in window[0]
    }
    values |= {
      'rate': float(self.rate(state.updates)),
      'tokens': moment.step * self.tokens,
      'tokens_per_second': speed,
      'step_seconds': seconds / count,
      'data_seconds': self._waited / count,
      'skipped': moment.step - int(state.updates),
    }
    share = utilisation(speed * self.flops, jax.devices())
    if share is not None:
      values['utilisation'] = share
    self.metrics.write(moment.step, values)
    self.progress.update(moment.step, values['loss'], speed)
    self._window, self._waited = [], 0.0


@dataclasses.dataclass
class Validate:
  """Measures the model now and then; the run ends when it stops improving."""

  measure: Callable[[State], dict[str, float]]
  metrics: Metrics
  progress: Progress
  stopwatch: Stopwatch
  every: int
  steps: int  # of the whole run; one comes after the last
  metric: str
  patience: int
  best: float = float('inf')
  waiting: int = 0  # validations since the best
  owed: bool = False  # a signal ended the last one early

  def __call__(self, moment: Moment) -> None:
    due = self.every and moment.step % self.every == 0
    if due or moment.step == self.steps:
      self.validate(moment)

  def validate(self, moment: Moment) -> None:
    with self.stopwatch.paused(moment.state):
      try:
        found = self.measure(moment.state)
      except Interrupted:
        moment.stop = self.owed = True
        return
    moment.validation, self.owed = found, False
    self.metrics.write(
      moment.step, {f'valid/{name}': value for name, value in found.items()}
    )
    value = found[self.metric]
    self.progress.say(
      f'step {moment.step:,}: validation {self.metric} {value:.4f}'
    )
    self.waiting = 0 if value < self.best else self.waiting + 1
    self.best = min(self.best, value)
    if self.over:
      self.progress.say(
        f'No better {self.metric} than {self.best:.4f} in {self.waiting} '
        f'validations (train.patience = {self.patience}): the run ends.'
      )
      moment.stop = True

  def memory(self) -> dict:
    """What a resumed run must know; `recall` takes it."""
    best = None if self.best == float('inf') else self.best
    return {'best': best, 'waiting': self.waiting, 'owed': self.owed}

  def recall(self, memory: dict) -> None:
    """Takes what `memory` gave; an empty dict changes nothing."""
    if memory:
      self.best = float('inf') if memory['best'] is None else memory['best']
      self.waiting, self.owed = memory['waiting'], memory['owed']

  @property
  def over(self) -> bool:
    """Whether patience has run out."""
    return bool(self.patience) and self.waiting >= self.patience


@dataclasses.dataclass
class Save:
  """Writes checkpoints: now and then, after a validation, and at the end.

  Not of a state that a validation found broken, nor while steps are skipped:
  no step has gone on from such a state yet. Only the end is saved even then,
  if its validation is finite.
  """

  store: CheckpointStore
  stopwatch: Stopwatch
  every: int
  meta: Callable[[], dict]

  def __call__(self, moment: Moment) -> None:
    found = moment.validation
    due = moment.step % self.every == 0 or found is not None or moment.stop
    if not due:
      return
    sound = int(moment.state.skipped) == 0
    if found is not None:
      finite = math.isfinite(found[self.store.settings.metric])
      sound = finite and (sound or moment.stop)
    if sound:
      with self.stopwatch.paused(moment.state):
        self.store.save(moment.step, moment.state, self.meta(), found)


@dataclasses.dataclass
class Trace:
  """Writes a profile of five steps, once ten have warmed up.

  A run of fewer than 15 steps is traced from its second step on.
  """

  folder: Path
  start: int
  steps: int  # of the whole run

  def __post_init__(self):
    self._running = False
    self._first = self.start + (10 if self.steps - self.start >= 15 else 1)

  def __call__(self, moment: Moment) -> None:
    if self._running and (moment.stop or moment.step == self._first + 5):
      jax.block_until_ready(moment.state)
      jax.profiler.stop_trace()
      self._running = False
    elif moment.step == self._first and not moment.stop:
      jax.profiler.start_trace(str(self.folder))
      self._running = True
