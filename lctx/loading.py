"""Loading a trained or published model, on the first device."""

import dataclasses
import logging
from pathlib import Path

import jax

from lctx import config as configs
from lctx import data, published
from lctx.checkpoint import CheckpointError, CheckpointStore, Restored, compare
from lctx.errors import UserError, checking
from lctx.interop.find import is_published
from lctx.kernels.choose import Auto
from lctx.loaded import Loaded
from lctx.models.text import Decoder

_log = logging.getLogger(__name__)


def load(workdir: str | Path, *, checkpoint: str | int = 'best') -> Loaded:
  """A model trained in `workdir`, or a published one, on the first device.

  `checkpoint`: 'best' by validation (else the latest), 'latest', or a step. A
  published model is a folder as Hugging Face's libraries write it, or the name
  of one on their hub, 'owner/name'; that reads by segments of 512 tokens, or of
  as many as it has positions for.

  Raises:
    UserError: nothing was trained there, no such checkpoint, or a published
      model that cannot be read.
  """
  folder = Path(workdir).expanduser()
  if is_published(folder) or not folder.exists():
    with checking():
      return _published(workdir)
  config = configs.read(folder)
  with checking():
    codec = data.load_codec(folder)
    size = config.data.vocabulary(codec)
    model = _runnable(config.model.with_vocabulary(size))
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    evaluated = 'average' if config.train.ema else 'params'
    with CheckpointStore(folder / 'checkpoints', config.checkpoint) as store:
      restored = _restored(store, {evaluated: shapes}, codec, checkpoint)
  if restored is None:
    raise UserError(
      f'workdir = {str(workdir)!r} has no checkpoint yet. Let train.py run '
      'until it has saved one.'
    )
  params = restored.state[evaluated]
  return Loaded(model, params, codec, config, restored.step)


def _published(name: str | Path) -> Loaded:
  """With its own tokenizer, and the config that trains it on."""
  found = published.find(name)
  params = found.model.params
  model = _runnable(found.model.model)
  return Loaded(model, params, found.codec, found.config, 0, found.model)


def _runnable(model: Decoder) -> Decoder:
  """The same function, with a kernel that runs here: it changes no meaning."""
  try:
    model.compute.kernel.check_platform(jax.default_backend())
  except ValueError as error:
    _log.warning('Another attention kernel is chosen here: %s', error)
    compute = dataclasses.replace(model.compute, kernel=Auto())
    return dataclasses.replace(model, compute=compute)
  return model


def _restored(store, abstract, codec, checkpoint) -> Restored | None:
  """The best that is whole falls back to the latest that is, and says so."""

  def check(meta: dict) -> None:
    saved = {'tokenizer': meta['fingerprint']['tokenizer']}
    compare(saved, {'tokenizer': str(codec)})

  step = _step(store, checkpoint)
  try:
    return store.restore(abstract, step, check)
  except CheckpointError as error:
    if checkpoint != 'best':
      raise
    _log.warning('The best checkpoint, step %s, is not used: %s', step, error)
    return store.restore(abstract, None, check)


def _step(store: CheckpointStore, checkpoint: str | int) -> int | None:
  if checkpoint == 'latest':
    return None
  if checkpoint == 'best':
    return store.best_step
  try:
    return int(checkpoint)
  except ValueError:
    raise ValueError(
      f"checkpoint = {checkpoint!r} is neither 'best', 'latest' nor a step. "
      f'There are steps {store.steps}.'
    ) from None
