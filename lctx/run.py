"""Train, evaluate, load: the only code that sees a whole Config."""

import dataclasses
import json
import logging
import time
from pathlib import Path

import jax
import numpy as np
import optax

from lctx import config as configs
from lctx import data
from lctx.checkpoint import CheckpointStore, compare
from lctx.config import Config
from lctx.errors import checking, writable
from lctx.evaluation import pictures, report
from lctx.evaluation.measure import measure, perplexity
from lctx.evaluation.report import Result
from lctx.evaluation.score import Scorer
from lctx.loaded import load
from lctx.models.decoder import Decoder
from lctx.models.segments import check_runs
from lctx.sharding import mesh as meshes
from lctx.sharding import rules
from lctx.training import flops, hooks
from lctx.training.interrupt import Interrupt, Interrupted
from lctx.training.loop import loop
from lctx.training.metrics import open_metrics
from lctx.training.progress import Progress
from lctx.training.state import State, abstract_state, initial_state
from lctx.training.step import make_step
from lctx.types import Batch

_log = logging.getLogger(__name__)


def train(config: Config, workdir: str | Path) -> Result | None:
  """Trains until `train.steps`, or goes on where the same call stopped.

  Writes checkpoints, metrics, tables and pictures to `workdir`. Returns the
  closing evaluation, or None if a signal ended the run (it was saved).

  Raises:
    UserError: the config, the text or the workdir cannot be as they are.
  """
  folder = writable(workdir)
  run = _prepared(config, folder)
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

  `config` may differ from the trained one in `eval` and `data` only, as
  `lctx.config.read(workdir, overrides)` gives it. `checkpoint`: 'best',
  'latest' or a step. `poll` is called now and then and may raise.

  Raises:
    UserError: no such checkpoint, or an evaluation the model cannot do.
  """
  loaded = load(workdir, checkpoint=checkpoint)
  config = config or loaded.config
  settings, folder = config.eval, Path(workdir)
  with checking():
    model = settings.model(loaded.model)
    store = data.open_store(
      config.data.corpus,
      loaded.codec,
      settings.split,
      _store_folder(config, folder),
    )
  segment = settings.segment or config.data.segment
  title = (
    f'Step {loaded.step:,}, {settings.split} split of '
    f'{_name(config.data.corpus)}: segment {segment}, memory '
    f'{model.memory.length}'
  )
  result = measure(
    Scorer(model, loaded.params, segment),
    store,
    loaded.codec,
    settings,
    title,
    poll,
  )
  report.save_json(result, folder / 'eval.json')
  drawn = pictures.pictures(result, folder)
  drawn.append(_curve(folder))
  print(report.table(result))
  print('\n' + '\n'.join(f'wrote {path}' for path in drawn if path))
  return result


@dataclasses.dataclass(frozen=True)
class _Run:
  """All that is known before anything compiles."""

  config: Config
  folder: Path
  model: Decoder
  codec: data.Codec
  train: data.Store
  valid: data.Store
  mesh: jax.sharding.Mesh
  transform: optax.GradientTransformation
  abstract: State


def _prepared(config: Config, folder: Path) -> _Run:
  """Everything that can be wrong with a config is found here."""
  with checking():
    lanes, settings = config.data, config.train
    mesh = meshes.build(config.mesh)
    rules.check_rows(lanes.rows, mesh)
    check_runs(lanes.segments, settings.gradient_segments)
    _check_parts(lanes.rows, settings.accumulate, mesh)
    codec = lanes.tokenizer.fit(lanes.corpus, folder)
    model = config.model.with_vocabulary(codec.size)
    config.eval.model(model)
    train, valid = (
      data.open_store(lanes.corpus, codec, split, _store_folder(config, folder))
      for split in ('train', 'valid')
    )
    lanes.check(train)
    transform = config.optimizer.transform(settings.steps, model.axes())
    averaged = bool(settings.ema)
    abstract = abstract_state(model, transform, lanes.rows, mesh, averaged)
  return _Run(
    config, folder, model, codec, train, valid, mesh, transform, abstract
  )


def _trained(run: _Run, interrupt: Interrupt) -> bool:
  """Trains; False if a signal ended it before its time."""
  config, settings = run.config, run.config.train
  checkpoints = run.folder / 'checkpoints'
  with CheckpointStore(checkpoints, config.checkpoint) as store:
    state, meta = _begun(run, store)
    start = int(state.step)
    with (
      open_metrics(config.log, run.folder, start, _as_json(config)) as metrics,
      Progress(settings.steps, start) as progress,
    ):
      after = _Hooks(run, store, metrics, progress, interrupt)
      after.validate.recall(meta)
      steps = start if after.validate.over else settings.steps
      step = _compiled(run, progress) if start < steps else None
      after.stopwatch.restart()
      state = loop(
        step,
        state,
        lambda i: _batch(run, i),
        steps,
        after.all(start),
        interrupt,
      )
      store.wait()
      done = int(state.step) >= steps or after.validate.over
      if not done:
        progress.say(
          f'Stopped and saved at step {int(state.step):,} of {steps:,}. The '
          'same command goes on from there.'
        )
  return done


def _begun(run: _Run, store: CheckpointStore) -> tuple[State, dict]:
  """The state to start from, and what validation remembers."""
  config = run.config
  with checking():
    restored = store.restore(
      run.abstract,
      check=lambda meta: compare(meta['fingerprint'], _fingerprint(run)),
    )
  configs.save(config, run.folder)
  for field in dataclasses.fields(config):
    _log.info('config.%s = %s', field.name, getattr(config, field.name))
  count = sum(x.size for x in jax.tree.leaves(run.abstract.params))
  _log.info('%s parameters on %s', f'{count:,}', run.mesh)
  if restored is None:
    return initial_state(
      run.model, run.transform, config.seed, run.abstract
    ), {}
  _log.info('goes on from step %d of %s', restored.step, store.folder)
  return restored.state, restored.meta['validate']


def _compiled(run: _Run, progress: Progress):
  began = time.perf_counter()
  step = make_step(
    run.model, run.transform, run.config.train, run.config.data.segment
  )
  compiled = step.lower(run.abstract, _batch(run, 0)).compile()
  progress.say(f'compiled in {time.perf_counter() - began:.1f} s')
  return compiled


class _Hooks:
  """What happens after steps, wired up."""

  def __init__(self, run, store, metrics, progress, interrupt):
    config, settings = run.config, run.config.train
    self.folder, self.profile = run.folder, config.profile
    self.stopwatch = hooks.Stopwatch()
    self.log = hooks.Log(
      metrics,
      progress,
      self.stopwatch,
      config.log.every,
      config.data.rows * config.data.length,
      _flops(run),
      config.optimizer.rate(settings.steps),
      settings.max_skipped,
    )
    self.validate = hooks.Validate(
      lambda state: _validated(run, state, interrupt),
      metrics,
      progress,
      self.stopwatch,
      settings.eval_every,
      config.checkpoint.metric,
      settings.patience,
    )
    self.save = hooks.Save(
      store, self.stopwatch, config.checkpoint.every, lambda: self._meta(run)
    )

  def all(self, start: int) -> list:
    found = [self.log, self.validate, self.save]
    if self.profile:
      found.append(hooks.Trace(self.folder / 'profile', start))
    return found

  def _meta(self, run: _Run) -> dict:
    return {
      'config': configs.to_json(run.config),
      'fingerprint': _fingerprint(run),
      'validate': self.validate.memory(),
    }


def _fingerprint(run: _Run) -> dict:
  """What a checkpoint must have in common with a run that goes on from it."""
  model = configs.to_json(run.model)
  del model['compute'], model['dropout']
  lanes = run.config.data
  return {
    'model': model,
    'optimizer': type(run.config.optimizer).__name__,
    'tokenizer': run.codec.hash,
    'text': run.train.hash,
    'data': {
      name: getattr(lanes, name) for name in ('rows', 'segment', 'segments')
    },
    'train': {'ema': run.config.train.ema},
    'seed': run.config.seed,
  }


def _validated(run: _Run, state: State, interrupt: Interrupt) -> dict:
  config = run.config
  segment = config.eval.segment or config.data.segment
  model = config.eval.model(run.model)
  found = perplexity(
    Scorer(model, state.evaluated, segment),
    run.valid,
    run.codec,
    config.eval.rows,
    config.train.valid_tokens,
    interrupt.check,
  )
  return {
    name: value
    for name, value in dataclasses.asdict(found).items()
    if name.startswith('bits') or name.endswith('perplexity')
    if value is not None
  }


def _batch(run: _Run, index: int) -> Batch:
  """Batch `index` on the devices; each process reads the rows it holds."""
  lanes, count = run.config.data, jax.process_count()
  share = lanes.rows // count
  first = share * jax.process_index()
  local = lanes.batch(run.train, index, slice(first, first + share))
  sharding = rules.batch_sharding(run.mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(
      sharding, np.ascontiguousarray(x), (lanes.rows, lanes.length)
    ),
    local,
  )


def _flops(run: _Run) -> float:
  """Of the model, per token of training."""
  model, lanes = run.model, run.config.data
  embed, sizes = model.embed, model.sizes()
  first = len(embed.cutoffs)  # cluster rows, in the head
  bins = tuple(
    flops.Bin(
      end - start + (first if i == 0 else 0),
      embed.tables[i if len(embed.tables) > 1 else 0][1],
      embed.projected,
    )
    for i, (start, end) in enumerate(embed.bins)
  )
  return flops.count(
    flops.Sizes(
      model.stack.depth,
      sizes.width,
      sizes.num_heads,
      sizes.head_width,
      model.stack.ffn_width or 4 * sizes.width,
      bins,
    ),
    flops.Reading(lanes.segment, model.memory.length, lanes.rows),
  ).train


def _check_parts(rows: int, parts: int, mesh: jax.sharding.Mesh) -> None:
  devices = mesh.shape['data'] * mesh.shape['fsdp']
  if rows % (parts * devices):
    raise ValueError(
      f'train.accumulate = {parts} does not divide the {rows // devices} rows '
      f'that each device holds (data.rows = {rows}). Use a divisor of that.'
    )


def _store_folder(config: Config, folder: Path) -> Path:
  return Path(config.data.folder) if config.data.folder else folder / 'data'


def _as_json(config: Config) -> str:
  return json.dumps(configs.to_json(config))


def _name(corpus) -> str:
  return type(corpus).__name__.lower()


def _curve(folder: Path) -> Path | None:
  """The training curve, where the run has a log."""
  log, path = folder / 'metrics.jsonl', folder / 'curve.png'
  if not log.is_file():
    return None
  with open(log, encoding='utf-8') as lines:
    pictures.curve([json.loads(line) for line in lines], path)
  return path
