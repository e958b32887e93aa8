"""Checkpoints: saved in the background, checked when read, never half there.

Orbax writes and reads the arrays. What it leaves to us is here: which steps
to keep, and the proof that what was read is what was written (it restores a
flipped byte in silence). One step is one folder, `<step>/`, with two items:
`state`, the leaves by name, and `meta`, the caller's JSON beside a table of
every leaf's shape, type and checksum.
"""

import functools
import json
import logging
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from lctx.checksum import (
  check_fit,
  compare,
  named_leaves,
  sealed,
  table,
  unsealed,
)
from lctx.damage import (
  CheckpointError,
  DamageError,
  QuietOrbax,
  everywhere,
  failing_as,
  patient_event_loops,
)
from lctx.retention import Checkpoints, Keep

__all__ = ['CheckpointError', 'CheckpointStore', 'Checkpoints', 'compare']

PyTree = Any
_log = logging.getLogger(__name__)


class Restored(NamedTuple):
  """What a checkpoint gives back."""

  step: int
  state: PyTree
  meta: dict


class CheckpointStore:
  """The checkpoints in one folder. Every process of a run makes the same calls.

  Leaves of a state are `jax.Array`s of any real type, typed random keys
  included, under any sharding. Several processes need one shared folder.
  """

  def __init__(self, folder: os.PathLike | str, settings: Checkpoints):
    self.folder = epath.Path(folder).absolute()
    self.settings = settings
    self._quiet = QuietOrbax()
    logging.getLogger('absl').addFilter(self._quiet)  # what Orbax logs with
    self.damaged: set[int] = set()  # newer than what was restored instead
    options = ocp.CheckpointManagerOptions(
      preservation_policy=Keep(self),
      # Else a folder that cannot be made holds up the end of the program.
      async_options=ocp.options.AsyncOptions(
        create_directories_asynchronously=False
      ),
    )
    with failing_as(f'The folder {self.folder} cannot be used'):
      self.folder.mkdir(parents=True, exist_ok=True)
      self._manager = ocp.CheckpointManager(self.folder, options=options)
    self._scores: dict[int, float] = {}
    self.unranked: dict[int, DamageError] = {}  # nobody can read how good
    for step in self.steps:
      try:
        body = everywhere('metadata', functools.partial(self._read_meta, step))
        self._rank(step, body['metrics'])
      except DamageError as damage:
        self.unranked[step] = damage

  def __enter__(self) -> 'CheckpointStore':
    return self

  def __exit__(self, *_):
    self.close()

  @property
  def steps(self) -> list[int]:
    """Steps that can be restored, as far as is known, in rising order."""
    return sorted(set(self._manager.all_steps()) - self.damaged)

  @property
  def latest_step(self) -> int | None:
    return max(self.steps, default=None)

  @property
  def best_step(self) -> int | None:
    """The step of lowest metric (the later of equals); None: none has one."""
    for step, damage in self.unranked.items():
      where = self.folder / str(step)
      _log.warning('Checkpoint %s has no rank: %s.', where, damage)
    return next(iter(self.best(self.steps)), None)

  def best(self, steps: list[int]) -> list[int]:
    """Those of `steps` that were saved with the metric, best first."""
    ranked = [step for step in steps if step in self._scores]
    return sorted(ranked, key=lambda step: (self._scores[step], -step))

  def save(self, step: int, state: PyTree, meta: dict, metrics=None) -> None:
    """Starts to write a checkpoint; returns when `state` may be overwritten.

    A step that is there already is only given a validation that came later
    than its checkpoint. Whatever went wrong in the background since the last
    call raises here, or in `wait` and `close`.

    Args:
      step: steps made so far, skipped ones included.
      state: the pytree to save.
      meta: whatever JSON can hold, for `restore` to give back.
      metrics: of a validation at this step, `settings.metric` among them; or
        None, and the step is never among the best.
    """
    if metrics is not None and self.settings.metric not in metrics:
      raise ValueError(
        f'checkpoint.metric is {self.settings.metric!r}, which the validation '
        f'does not measure. Choose one of {sorted(metrics)}.'
      )
    self.wait()
    if step in self.steps:
      if metrics is not None and step not in self._scores:
        self._amend(step, meta, metrics)
      return
    leaves = {k: x for k, x in named_leaves(state).items() if x.size}
    assert all(isinstance(x, jax.Array) for x in leaves.values())
    body = sealed({'meta': meta, 'metrics': metrics, 'leaves': table(state)})
    self._rank(step, metrics)
    with self._writing():
      if step in self.damaged:
        self._manager.delete(step)
        self.damaged.remove(step)  # what is saved now is another matter
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(leaves), meta=ocp.args.JsonSave(body)
        ),
        force=True,  # also where a newer step, found damaged, is still there
      )
      self.damaged.clear()  # `Keep` has dismissed them

  def restore(
    self,
    abstract_state: PyTree,
    step: int | None = None,
    check: Callable[[dict], None] = lambda meta: None,
  ) -> Restored | None:
    """The newest checkpoint that is whole, or None where there is none.

    A damaged one is skipped for the one before it, with a warning; it goes
    when the next is saved.

    Args:
      abstract_state: what to make: a pytree of `jax.ShapeDtypeStruct`, or of
        arrays, with the shardings to restore to (none: the first device).
        Fields of the state that it lacks are not read.
      step: this one and no other.
      check: raises if `meta` is of another run; called before arrays are read.

    Raises:
      CheckpointError: no checkpoint, or not the one asked for, can be read.
      ValueError: it holds other leaves than `abstract_state`.
    """
    self.wait()
    bad = {}
    for candidate in self._candidates(step):
      try:
        restored = self._restore(candidate, abstract_state, check)
        self.damaged |= set(bad)
        return restored
      except DamageError as damage:
        bad[candidate] = str(damage)
        where = self.folder / str(candidate)
        _log.warning('Checkpoint %s is skipped: %s.', where, damage)
    if bad:
      reasons = '; '.join(f'step {s}: {reason}' for s, reason in bad.items())
      raise CheckpointError(
        f'No checkpoint in {self.folder} can be restored ({reasons}). Copy it '
        'back from a backup, name another step, or start in a new workdir.'
      )
    return None

  def withdraw(self, step: int) -> None:
    """Takes back a checkpoint that was saved."""
    self.wait()
    with self._writing():
      self._manager.delete(step)
    self._scores.pop(step, None)

  def wait(self) -> None:
    """Returns when all that was saved is on disk."""
    with self._writing():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and frees threads and file handles."""
    try:
      self.wait()
    finally:
      with self._writing():
        self._manager.close()
      logging.getLogger('absl').removeFilter(self._quiet)

  def _candidates(self, step: int | None) -> list[int]:
    """What `restore` tries, in turn."""
    if step is None:
      return self.steps[::-1]
    if step not in self.steps:
      raise CheckpointError(
        f'{self.folder} has no checkpoint of step {step}. It has '
        f'{self.steps or "none at all"}; ask for one of these.'
      )
    return [step]

  def _amend(self, step: int, meta: dict, metrics: dict) -> None:
    """Writes the metadata of a checkpoint anew, at once or not at all."""
    body = everywhere('metadata', lambda: self._read_meta(step))
    body = sealed(body | {'meta': meta, 'metrics': metrics})
    with self._writing():
      if jax.process_index() == 0:
        path = self.folder / str(step) / 'meta' / 'metadata'
        part = path.with_suffix('.part')
        part.write_text(json.dumps(body))
        part.replace(path)
    self._rank(step, metrics)

  def _rank(self, step: int, metrics: dict | None) -> None:
    score = (metrics or {}).get(self.settings.metric, math.nan)
    self._scores.pop(step, None)
    self.unranked.pop(step, None)
    if math.isfinite(score):
      self._scores[step] = float(score)

  def _writing(self):
    return failing_as(f'A checkpoint could not be written to {self.folder}')

  def _restore(self, step: int, abstract_state: PyTree, check) -> Restored:
    body = everywhere('metadata', lambda: self._read_meta(step))
    check(body['meta'])
    where = self.folder / str(step)
    check_fit(body['leaves'], abstract_state, where)
    targets = {k: _target(x) for k, x in named_leaves(abstract_state).items()}
    leaves = everywhere('arrays', lambda: self._read_leaves(step, targets))
    state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
    got = table(state)
    wrong = [name for name, row in got.items() if body['leaves'][name] != row]
    if wrong:
      some = ', '.join(wrong[:3]) + (' and others' if len(wrong) > 3 else '')
      raise DamageError(f'{some}: the checksum differs from the saved one')
    return Restored(step, state, body['meta'])

  def _read_meta(self, step: int) -> dict:
    reader = ocp.handlers.JsonCheckpointHandler()
    body = reader.restore(self.folder / str(step) / 'meta')
    if not unsealed(body):
      raise DamageError('they differ from what was written')
    return body

  def _read_leaves(self, step: int, targets: dict) -> list[jax.Array]:
    """Not by way of the manager, in which other processes wait for this one."""
    full = {name: target for name, target in targets.items() if target.size}
    reader = ocp.handlers.PyTreeCheckpointHandler()
    wanted = ocp.checkpoint_utils.construct_restore_args(full)
    args = ocp.args.PyTreeRestore(full, wanted, partial_restore=True)
    with patient_event_loops():
      read = reader.restore(self.folder / str(step) / 'state', args=args)
    return [
      read[name] if target.size else _empty(target)
      for name, target in targets.items()
    ]


def _target(leaf) -> jax.ShapeDtypeStruct:
  first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  sharding = getattr(leaf, 'sharding', None) or first
  sharding.shard_shape(leaf.shape)  # raises if the shards are not of one size
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _empty(target: jax.ShapeDtypeStruct) -> jax.Array:
  """An array without elements, which Orbax cannot write."""
  return jax.device_put(
    jax.lax.full(target.shape, 0, target.dtype), target.sharding
  )
