"""Numbers of a run, as they come: JSON lines, TensorBoard, Weights & Biases."""

import dataclasses
import importlib.util
import json
import logging
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from lctx.training.events import EventFile

_log = logging.getLogger(__name__)

Values = Mapping[str, Any]  # numbers and strings, by name


@dataclasses.dataclass(frozen=True)
class Logging:
  """What is written down, and how often.

  `every`: steps between records. `wandb`: a project there; '' = none, else the
  package must be installed.
  """

  every: int = 50
  tensorboard: bool = True
  wandb: str = ''

  def __post_init__(self):
    if self.every < 1:
      raise ValueError(
        f'log.every = {self.every} counts the steps between two records and '
        'must be at least 1.'
      )


class Writer(Protocol):
  """One place that records go to."""

  def write(self, step: int, values: Values) -> None: ...

  def close(self) -> None: ...


class Metrics:
  """Writes every record to all its writers. A context manager."""

  def __init__(self, writers: Sequence[Writer]):
    self._writers = writers

  def write(self, step: int, values: Values) -> None:
    """`values`: numbers (arrays of one entry too) or strings, by name."""
    values = {name: _plain(value) for name, value in values.items()}
    for writer in self._writers:
      writer.write(step, values)

  def close(self) -> None:
    for writer in self._writers:
      writer.close()

  def __enter__(self) -> 'Metrics':
    return self

  def __exit__(self, *_) -> None:
    self.close()


def open_metrics(
  log: Logging, folder: Path, step: int = 0, config: str = '{}'
) -> Metrics:
  """The metrics of a run in `folder` that has made `step` steps.

  Records beyond that step, left by a run that was killed, are dropped, so that
  a resumed log is an uninterrupted one: write the records of a step before the
  checkpoint of that step. `config` is the run's, in JSON. Only the first of
  several processes writes. Raises ValueError if log.wandb cannot be had.
  """
  if log.wandb and importlib.util.find_spec('wandb') is None:
    raise ValueError(
      f'log.wandb = {log.wandb!r} needs the package wandb, which is not '
      "installed. Run pip install 'lctx[wandb]', or leave log.wandb empty."
    )
  if jax.process_index() != 0:
    return Metrics([])
  folder.mkdir(parents=True, exist_ok=True)
  writers: list[Writer] = [JsonLines(folder / 'metrics.jsonl', step)]
  if log.tensorboard:
    writers.append(EventFile(folder / 'tensorboard', step, config))
  if log.wandb:
    writers.append(WeightsAndBiases(log.wandb, folder, config))
  return Metrics(writers)


class JsonLines:
  """One record a line, on disk when `write` returns; NaN and infinity: null."""

  def __init__(self, path: Path, step: int):
    if path.exists():
      _drop_beyond(path, step)
    self._file = path.open('a', encoding='utf-8')

  def write(self, step: int, values: Values) -> None:
    record = {'step': step} | {
      name: None if _is_not_finite(value) else value
      for name, value in values.items()
    }
    self._file.write(json.dumps(record, allow_nan=False) + '\n')
    self._file.flush()

  def close(self) -> None:
    self._file.close()


class WeightsAndBiases:
  """A run that goes on under the same name when training resumes.

  What a killed run sent cannot be taken back: drawn against `step`, the lines
  of both overlap there.
  """

  def __init__(self, project: str, folder: Path, config: str):
    import wandb

    name = folder / 'wandb_id'
    if not name.exists():
      name.write_text(secrets.token_hex(4))
    self._run = wandb.init(
      project=project,
      id=name.read_text(),
      resume='allow',
      dir=str(folder),
      config=json.loads(config),
    )
    self._run.define_metric('*', step_metric='step')

  def write(self, step: int, values: Values) -> None:
    self._run.log({'step': step} | values)

  def close(self) -> None:
    self._run.finish()


def _drop_beyond(path: Path, step: int) -> None:
  """Rewrites the file, whole or not at all, without records after `step`."""
  kept = path.with_suffix('.tmp')
  with path.open('rb') as old, kept.open('wb') as new:
    for number, line in enumerate(old, start=1):
      recorded = _step_of(line)
      if recorded is None:
        _log.warning('%s: line %d is damaged and dropped.', path, number)
      elif recorded <= step:
        new.write(line)
    new.flush()
    os.fsync(new.fileno())
  os.replace(kept, path)


def is_record(line: str) -> bool:
  """Whether a line of the log is whole."""
  return _step_of(line.encode()) is not None


def _step_of(line: bytes) -> int | None:
  """None for half a line, which is what a killed run leaves."""
  if not line.endswith(b'\n'):
    return None
  try:
    return int(json.loads(line)['step'])
  except (ValueError, TypeError, KeyError):
    return None


def _plain(value):
  if isinstance(value, str | int | float):
    return value
  return value.item()


def _is_not_finite(value) -> bool:
  return isinstance(value, float) and not math.isfinite(value)
