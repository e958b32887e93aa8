"""Train, evaluate, load: the only code that sees a whole Config."""

import dataclasses
import json
import logging
import math
import time
from pathlib import Path

import jax

from lctx import config as configs
from lctx import data
from lctx.checkpoint import CheckpointStore, Restored, compare
from lctx.config import Config
from lctx.errors import RunError, UserError, checking, writable
from lctx.evaluation import pictures, report
from lctx.evaluation.asked import batches_of, check_asks, predicted
from lctx.evaluation.measure import measure, perplexity
from lctx.evaluation.report import Result
from lctx.evaluation.score import Scorer
from lctx.evaluation.units import Units
from lctx.loaded import Loaded
from lctx.loading import load
from lctx.prepared import (
  Run,
  batch,
  check_documents,
  checkpoint_meta,
  fingerprint,
  measures,
  model_flops,
  prepared,
  store_folder,
)
from lctx.training import hooks
from lctx.training.guard import Guard
from lctx.training.interrupt import Interrupt, Interrupted
from lctx.training.loop import Moment, loop
from lctx.training.metrics import is_record, open_metrics
from lctx.training.progress import Progress
from lctx.training.state import State, initial_state, with_params
from lctx.training.step import make_step

_log = logging.getLogger(__name__)


def train(config: Config, workdir: str | Path) -> Result | None:
  """Trains until `train.steps`, or goes on where the same call stopped.

  Writes checkpoints, metrics, tables and pictures to `workdir`. Returns the
  closing evaluation, or None if a signal ended the run (it was saved).

  Raises:
    UserError: the config, the text or the workdir cannot be as they are.
  """
  folder = writable(workdir)
  run = prepared(config, folder)
  with Interrupt() as interrupt:
    if not _trained(run, interrupt):
      return None
    try:
      return evaluate(folder, config=config, poll=interrupt.check)
    except Interrupted:
      return None


def evaluate(
  workdir: str | Path,
  *,
  config: Config | None = None,
  checkpoint: str | int = 'best',
  poll=lambda: None,
) -> Result:
  """Measures a trained model; writes `eval.json` and pictures to `workdir`.

  `config` may differ from the trained one in `eval`, `data.corpus` and
  `data.folder` only, as `lctx.config.read(workdir, overrides)` gives it.
  `checkpoint`: 'best', 'latest' or a step. `poll` is called now and then and
  may raise.

  Raises:
    UserError: no such checkpoint, or an evaluation the model cannot do.
    RunError: its losses are not finite; nothing is written then.
  """
  loaded = load(workdir, checkpoint=checkpoint)
  config, folder = config or loaded.config, writable(workdir)
  with checking():
    configs.check_types(config)
  _check_same(config, loaded.config)
  result = _measured(loaded, config, folder, poll)
  report.save_json(result, folder / 'eval.json')
  drawn = pictures.pictures(result, folder)
  drawn.append(_curve(folder))
  print(report.table(result))
  print('\n' + '\n'.join(f'wrote {path}' for path in drawn if path))
  return result


def _measured(loaded: Loaded, config: Config, folder: Path, poll) -> Result:
  """Raises RunError where the losses are not finite."""
  settings, corpus = config.eval, config.data.corpus
  with checking():
    model = loaded.model
    store = data.open_store(
      corpus, loaded.codec, settings.split, store_folder(config, folder)
    )
    if config.data.predicts_next:
      model = settings.model(model)
      check_documents(model, store)
    else:
      lanes = dataclasses.replace(config.data, rows=settings.rows)
      lanes.check(store)
      check_asks(lanes, store, loaded.codec, settings.split)
  if not config.data.predicts_next:
    return _asked(loaded, config, folder, store, poll)
  segment = settings.segment or config.data.segment
  title = (
    f'Step {loaded.step:,}, {settings.split} split of {_name(corpus)}: '
    f'segment {segment}, memory {_memory(model)}'
  )
  scorer = Scorer(model, loaded.params, segment)
  result = measure(scorer, store, loaded.codec, settings, title, poll)
  _check_finite(result.units, loaded, folder)
  return result


def _check_finite(units: Units, loaded: Loaded, folder: Path) -> None:
  if not math.isfinite(units.bits_per_token or 0.0):
    raise RunError(
      f'The model of step {loaded.step:,} in {folder} gives losses that are '
      'not finite, so there is nothing to report. Evaluate another step with '
      '--checkpoint, or train again with a lower optimizer.peak.'
    )


def _asked(
  loaded: Loaded, config: Config, folder: Path, store: data.Store, poll
) -> Result:
  """Of an objective other than the next token: its own loss alone."""
  settings = config.eval
  lanes = dataclasses.replace(config.data, rows=settings.rows)
  asked = type(lanes.objective).__name__
  found = predicted(
    loaded.model,
    loaded.params,
    lanes.segment,
    batches_of(lanes, store, loaded.codec),
    settings.tokens,
    poll,
  )
  _check_finite(found, loaded, folder)
  title = (
    f'Step {loaded.step:,}, {settings.split} split of '
    f'{_name(config.data.corpus)}: {asked}, of {lanes.stretch} tokens at a time'
  )
  return Result(title, found, None)


def _check_same(config: Config, trained: Config) -> None:
  """Raises UserError for a change that would have no effect here."""
  data_alike = dataclasses.replace(
    config.data, corpus=trained.data.corpus, folder=trained.data.folder
  )
  alike = dataclasses.replace(config, eval=trained.eval, data=data_alike)
  for field in dataclasses.fields(Config):
    if getattr(alike, field.name) != getattr(trained, field.name):
      raise UserError(
        f'config.{field.name} differs from what was trained, which has no '
        'effect on an evaluation. Change config.eval, config.data.corpus and '
        'config.data.folder only.'
      )


def _trained(run: Run, interrupt: Interrupt) -> bool:
  """Trains; False if a signal ended it before its time."""
  config, settings = run.config, run.config.train
  checkpoints = run.folder / 'checkpoints'
  with CheckpointStore(checkpoints, config.checkpoint) as store:
    with checking():
      restored = store.restore(
        run.abstract,
        check=lambda meta: compare(meta['fingerprint'], fingerprint(run)),
      )
      start = 0 if restored is None else restored.step
      metrics = open_metrics(config.log, run.folder, start, _as_json(config))
    state, meta = _begun(run, restored)
    with metrics, Progress(settings.steps, start) as progress:
      after = _Hooks(run, store, metrics, progress, interrupt)
      after.validate.recall(meta)
      after.catch_up(state)
      over = after.validate.over or interrupt.requested
      steps = start if over else settings.steps
      step = _compiled(run, progress) if start < steps else None
      after.stopwatch.restart()
      state = loop(
        step,
        state,
        lambda i: batch(run, i),
        steps,
        after.all(start),
        interrupt,
      )
      store.wait()
      validate, done = after.validate, int(state.step)
      if validate.owed or (done < settings.steps and not validate.over):
        progress.say(
          f'Stopped at step {done:,} of {settings.steps:,}. '
          f'The same command {_way_on(store.latest_step)}.'
        )
        return False
  return True


def _way_on(step: int | None) -> str:
  if step is None:
    return 'begins anew, for nothing that training can go on from is saved'
  return f'goes on from step {step:,}, which is saved'


def _begun(run: Run, restored: Restored | None) -> tuple[State, dict]:
  """The state to start from, and what validation remembers."""
  config = run.config
  configs.save(config, run.folder)
  for field in dataclasses.fields(config):
    _log.info('config.%s = %s', field.name, getattr(config, field.name))
  count = sum(x.size for x in jax.tree.leaves(run.abstract.params))
  _log.info('%s parameters on %s', f'{count:,}', run.mesh)
  if restored is None:
    state = initial_state(
      run.model, run.transform, config.seed, config.data.rows, run.abstract
    )
    if config.init.checkpoint:
      with checking():
        params = config.init.params(run.model, config.seed)
      state = with_params(state, params, run.abstract)
    return state, {}
  _log.info('goes on from step %d of %s', restored.step, run.folder)
  return restored.state, restored.meta['validate']


def _compiled(run: Run, progress: Progress):
  began = time.perf_counter()
  step = make_step(
    run.model, run.transform, run.config.train, run.config.data.segment
  )
  compiled = step.lower(run.abstract, batch(run, 0)).compile()
  progress.say(f'compiled in {time.perf_counter() - began:.1f} s')
  if run.mesh.size > 1 and jax.default_backend() == 'cpu':
    # CPU devices lock up when the collectives of two steps overtake.
    return lambda *inputs: jax.block_until_ready(compiled(*inputs))
  return compiled


class _Hooks:
  """What happens after steps, wired up."""

  def __init__(self, run, store, metrics, progress, interrupt):
    config, settings = run.config, run.config.train
    self.folder, self.profile = run.folder, config.profile
    self.steps, self.max_skipped = settings.steps, settings.max_skipped
    self.stopwatch = hooks.Stopwatch()
    self.log = hooks.Log(
      metrics,
      progress,
      self.stopwatch,
      config.log.every,
      config.data.rows * config.data.length,
      model_flops(run),
      config.optimizer.rate(settings.steps),
    )
    self.validate = hooks.Validate(
      lambda state: _validated(run, state, interrupt),
      metrics,
      progress,
      self.stopwatch,
      settings.eval_every,
      settings.steps,
      config.checkpoint.metric,
      settings.patience,
    )
    self.store = store
    self.save = hooks.Save(
      store,
      self.stopwatch,
      config.checkpoint.every,
      lambda: checkpoint_meta(run, self.validate.memory()),
    )

  def all(self, start: int) -> list:
    guard = Guard(self.store, self.max_skipped, self.log.every, start)
    found = [self.log, self.validate, guard, self.save]
    if self.profile:
      trace = hooks.Trace(self.folder / 'profile', start, self.steps)
      found.append(trace)
    return found

  def catch_up(self, state: State) -> None:
    """Makes up for the validation that a signal ended early."""
    if self.validate.owed:
      moment = Moment(int(state.step), state, {}, 0.0, stop=False)
      self.validate.validate(moment)
      self.save(moment)


def _validated(run: Run, state: State, interrupt: Interrupt) -> dict:
  config = run.config
  segment = config.eval.segment or config.data.segment
  if not config.data.predicts_next:
    lanes = dataclasses.replace(config.data, rows=config.eval.rows)
    found = predicted(
      run.model,
      state.evaluated,
      lanes.segment,
      batches_of(lanes, run.valid, run.codec),
      config.train.valid_tokens,
      interrupt.check,
    )
    return _measures(found)
  model = config.eval.model(run.model)
  found = perplexity(
    Scorer(model, state.evaluated, segment),
    run.valid,
    run.codec,
    config.eval.rows,
    config.train.valid_tokens,
    interrupt.check,
  )
  return _measures(found)


def _measures(found: Units) -> dict[str, float]:
  return {
    name: value
    for name, value in dataclasses.asdict(found).items()
    if measures(name) and value is not None
  }


def _as_json(config: Config) -> str:
  return json.dumps(configs.to_json(config))


def _memory(model) -> str:
  """How far it looks back, where it counts states; else what it is."""
  if model.memory.length or not model.remembers:
    return str(model.memory.length)
  return type(model.memory).__name__.lower()


def _name(corpus) -> str:
  return type(corpus).__name__.lower()


def _curve(folder: Path) -> Path | None:
  """The training curve, where the run has a log."""
  log, path = folder / 'metrics.jsonl', folder / 'curve.png'
  if not log.is_file():
    return None
  with open(log, encoding='utf-8') as lines:
    pictures.curve(map(json.loads, filter(is_record, lines)), path)
  return path
