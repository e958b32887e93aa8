"""Everything about a run that can be known before anything compiles."""

import dataclasses
import logging
from pathlib import Path

import jax
import numpy as np
import optax

from lctx import config as configs
from lctx import data, fits
from lctx.checkpoint import compare
from lctx.config import Config
from lctx.errors import checking
from lctx.evaluation.asked import check_asks
from lctx.evaluation.measure import spelled
from lctx.evaluation.units import Units
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.segments import check_runs
from lctx.models.text import TextModel
from lctx.patterns import Everything
from lctx.positions import NoPosition, Position
from lctx.sharding import mesh as meshes
from lctx.sharding import rules
from lctx.training import flops
from lctx.training.state import State, abstract_state
from lctx.types import Batch

_log = logging.getLogger(__name__)

_ROWS = 32  # of training, of which is told what they leave out


@dataclasses.dataclass(frozen=True)
class Run:
  """All that is known before anything compiles."""

  config: Config
  folder: Path
  model: TextModel | EncoderDecoder
  codec: data.Codec
  train: data.Store
  valid: data.Store
  mesh: jax.sharding.Mesh
  transform: optax.GradientTransformation
  abstract: State


def prepared(config: Config, folder: Path) -> Run:
  """Everything that can be wrong with a config is found here."""
  with checking():
    configs.check_types(config)
    fits.check_asked(config)
    lanes, settings = config.data, config.train
    mesh = meshes.build(config.mesh)
    rules.check_rows(lanes.rows, mesh)
    kernel = config.model.compute.kernel
    kernel.check_platform(mesh.devices.flat[0].platform)
    check_runs(lanes.segments, settings.gradient_segments)
    _check_parts(lanes.rows, settings.accumulate, mesh)
    _check_metric(config.checkpoint.metric)
    codec = _fitted(lanes, folder)
    model = config.model.with_vocabulary(lanes.vocabulary(codec))
    if lanes.predicts_next:
      config.eval.model(model)
    train, valid = (
      data.open_store(lanes.corpus, codec, split, store_folder(config, folder))
      for split in ('train', 'valid')
    )
    lanes.check(train)
    if isinstance(model, TextModel):
      for store in (train, valid):
        check_documents(model, store)
    if lanes.predicts_next:
      _check_scorable(valid, codec, config)
    else:
      _check_asked(train, valid, codec, config)
      _tell_room(lanes, train, codec)
    transform = config.optimizer.transform(settings.steps, model.axes())
    averaged = bool(settings.ema)
    abstract = abstract_state(model, transform, lanes.rows, mesh, averaged)
  texts = model.source if isinstance(model, EncoderDecoder) else model
  _warn_unused(texts)
  _warn_untaught(texts, settings.gradient_segments)
  _warn_no_roles(texts)
  _warn_whole(texts, lanes.segment)
  return Run(
    config, folder, model, codec, train, valid, mesh, transform, abstract
  )


def _tell_room(lanes: data.Lanes, store: data.Store, codec: data.Codec) -> None:
  """Says how much of the texts has no place in the rows of training."""
  found = lanes.room(store, codec, _ROWS)
  _log.info(
    'data.objective = %s: of the first %d rows, %.2f%% of %s tokens of text '
    'find no room and are left out, and %s of %s texts are too short to ask '
    'anything of',
    type(lanes.objective).__name__.lower(),
    found.rows,
    100 * found.outside / max(found.tokens, 1),
    f'{found.tokens:,}',
    f'{found.short:,}',
    f'{found.texts:,}',
  )


def _warn_unused(model: TextModel) -> None:
  """Says where no layer has a use for the position of the model.

  It is not refused, so that a memory in place of attention is one line.
  """
  absolute = type(model.position).embed is not Position.embed
  if model.attends or absolute or model.position == NoPosition():
    return
  _log.warning(
    f'model.position = {model.position} has no effect: model.memory = '
    f'{model.memory} lets no layer attend to tokens. With '
    'model.position=noposition the model is the same.'
  )


def _warn_no_roles(model: TextModel) -> None:
  """Says where no token is global, as in Longformer's own pretraining."""
  if getattr(model.memory, 'by_role', False):
    _log.warning(
      f'model.memory = {model.memory} has no effect: its tokens are chosen by '
      'their role, and the texts of data.corpus give none, so its projections '
      'stay as they are. With model.memory.first=1 the first token of each '
      'text is global.'
    )


def _warn_whole(model: TextModel, segment: int) -> None:
  """Says where segments are so short that a pattern hides nothing of them."""
  patterns = {run.kind.pattern for run in model.runs} - {Everything()}
  if any(x.of_length(segment) == Everything() for x in patterns):
    _log.warning(
      f'model.pattern = {model.pattern} sees all of the data.segment = '
      f'{segment} tokens that are read at a time, which are too few for its '
      'blocks. To train it on those, set data.segment higher, at most to where '
      'positions end.'
    )


def _warn_untaught(model: TextModel, gradient_segments: int) -> None:
  """Says where nothing teaches a memory what to write."""
  if gradient_segments or not model.memory.needs_bptt:
    return
  _log.warning(
    f'model.memory = {model.memory} learns what to write from the segments '
    'that read it, but train.gradient_segments = 0 lets no gradient back to '
    'where it was written. Use train.gradient_segments=3 with data.segments=4, '
    'or more of both, and fewer data.rows for as many tokens a step.'
  )


def check_documents(model: TextModel, store: data.Store) -> None:
  """Raises ValueError for a document that is longer than positions go."""
  longest = int(np.diff(store.offsets).max(initial=0))
  model.check_length(longest, 'The longest document of data.corpus')


def _check_metric(metric: str) -> None:
  known = [field.name for field in dataclasses.fields(Units)]
  known = [name for name in known if measures(name)]
  if metric not in known:
    raise ValueError(
      f'checkpoint.metric = {metric!r} is not what a validation measures. '
      f'Choose one of {", ".join(known)}.'
    )


def _check_scorable(
  valid: data.Store, codec: data.Codec, config: Config
) -> None:
  """The first token of a document opens it; the others are predicted."""
  metric, limit = config.checkpoint.metric, config.train.valid_tokens
  counts = {
    'token': len(valid.tokens) - valid.num_documents,
    'byte': int(valid.num_bytes.sum()),
    'character': int(valid.num_chars.sum()),
    'word': int(valid.num_words.sum()),
  }
  needed = next((unit for unit in counts if unit in metric), 'token')
  for unit in ('token', needed):
    if counts[unit] <= 0:
      raise ValueError(
        f'The validation split of data.corpus has no {unit} to predict, and '
        f'checkpoint.metric = {metric!r} needs some. Give it more text, or '
        'split the corpus in another way.'
      )
  if limit is None:
    return
  segment = config.eval.segment or config.data.segment
  read = spelled(valid, codec, config.eval.rows, segment, limit)
  if getattr(read.units(valid, whole=False), metric) is None:
    raise ValueError(
      f'train.valid_tokens = {limit} of the validation split hold no {needed}, '
      f'and checkpoint.metric = {metric!r} needs some. Read more of them.'
    )


def measures(name: str) -> bool:
  """Whether a field of Units is a measure, not a count."""
  return name.startswith('bits') or name.endswith('perplexity')


def _check_asked(
  train: data.Store, valid: data.Store, codec: data.Codec, config: Config
) -> None:
  """Raises ValueError for what an objective cannot be measured by."""
  fits.check_measured(config)
  lanes, metric = config.data, config.checkpoint.metric
  lanes.objective.check_length(lanes.stretch)
  asked = type(lanes.objective).__name__.lower()
  measured = 'bits_per_token', 'token_perplexity'
  if metric not in measured:
    raise ValueError(
      f'checkpoint.metric = {metric!r} is of every token of a text, but '
      f'data.objective = {asked} predicts some of them. Use '
      f'{" or ".join(measured)}.'
    )
  rows = dataclasses.replace(lanes, rows=config.eval.rows)
  try:
    rows.check(valid)
  except ValueError as error:
    text = str(error).replace('data.rows', 'eval.rows')
    raise ValueError(f'In the validation split, {text}') from error
  check_asks(lanes, train, codec, 'train')
  check_asks(rows, valid, codec, 'valid')


def _fitted(lanes: data.Lanes, folder: Path) -> data.Codec:
  """The tokenizer of the run; one that checkpoints rest on is not replaced."""
  replace = not any((folder / 'checkpoints').glob('[0-9]*'))
  codec = lanes.tokenizer.fit(lanes.corpus, folder, replace=replace)
  saved = data.load_codec(folder)
  compare({'tokenizer': str(saved)}, {'tokenizer': str(codec)})
  return codec


def fingerprint(run: Run) -> dict:
  """What a checkpoint must have in common with a run that goes on from it."""
  model = configs.to_json(run.model)
  del model['compute'], model['dropout']
  lanes, text = run.config.data, run.train
  corpus, count = type(lanes.corpus).__name__, int(text.num_bytes.sum())
  asked = {} if lanes.predicts_next else configs.to_json(lanes.objective)
  return {
    'model': model,
    'objective': asked,
    'optimizer': type(run.config.optimizer).__name__,
    'tokenizer': str(run.codec),
    'text': f'{corpus.lower()}, {count:,} bytes, hash {text.hash[:16]}',
    'data': {
      name: getattr(lanes, name) for name in ('rows', 'segment', 'segments')
    },
    'train': {'ema': run.config.train.ema},
    'seed': run.config.seed,
  }


def checkpoint_meta(run: Run, validation: dict) -> dict:
  """What a checkpoint holds beside arrays; `validation` remembers the best."""
  return {
    'config': configs.to_json(run.config),
    'fingerprint': fingerprint(run),
    'validate': validation,
  }


def batch(run: Run, index: int) -> Batch:
  """Batch `index` on the devices; each process reads the rows it holds."""
  lanes, count = run.config.data, jax.process_count()
  share = lanes.rows // count
  first = share * jax.process_index()
  own = slice(first, first + share)
  local = lanes.batch(run.train, run.codec, index, own)
  sharding = rules.batch_sharding(run.mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(
      sharding, np.ascontiguousarray(x), (lanes.rows, x.shape[1])
    ),
    local,
  )


def model_flops(run: Run) -> float:
  """Of the model, per token of training."""
  lanes, model = run.config.data, run.model
  if isinstance(model, EncoderDecoder):
    sizes = lanes.segment, lanes.length, lanes.written
    return flops.of_pairs(model, *sizes).train
  return flops.count(model, lanes.segment, lanes.rows).train


def _check_parts(rows: int, parts: int, mesh: jax.sharding.Mesh) -> None:
  devices = mesh.shape['data'] * mesh.shape['fsdp']
  if rows % (parts * devices):
    raise ValueError(
      f'train.accumulate = {parts} does not divide the {rows // devices} rows '
      f'that each device holds (data.rows = {rows}). Use a divisor of that.'
    )


def store_folder(config: Config, folder: Path) -> Path:
  given = config.data.folder
  return Path(given).expanduser() if given else folder / 'data'
