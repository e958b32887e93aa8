"""A trained model with its parameters and tokenizer, ready to use."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from lctx import config as configs
from lctx import data
from lctx.checkpoint import CheckpointError, CheckpointStore, Restored, compare
from lctx.config import Config
from lctx.errors import UserError, checking
from lctx.generation import decode
from lctx.generation.sampling import Sampling
from lctx.kernels.choose import Auto
from lctx.models import spans
from lctx.models.decoder import Decoder
from lctx.types import Params

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
  """What `lctx.load` gives."""

  model: Decoder
  params: Params
  codec: data.Codec
  config: Config
  step: int  # of training, at which `params` were saved

  def generate(
    self,
    prompt: str | list[str] = '',
    max_new_tokens: int = 200,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
  ) -> str | list[str]:
    """What the model writes after a prompt, or after each of several.

    Raises ValueError for a prompt that the tokenizer cannot spell.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    tokens = self.stream(prompts, max_new_tokens, sampling=sampling, seed=seed)
    rows = np.stack(list(tokens), axis=1)
    texts = [
      self.codec.decode(row[row >= 0]).decode('utf-8', 'replace')
      for row in rows
    ]
    return texts[0] if isinstance(prompt, str) else texts

  def stream(
    self,
    prompts: list[str],
    max_new_tokens: int | None = None,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
  ) -> Iterator[np.ndarray]:
    """New tokens as they come, int32 [prompts] each; None: for ever."""
    request = decode.Request(
      [self.encode(text) for text in prompts],
      max_new_tokens,
      sampling or Sampling(),
      seed,
    )
    segment = self.config.data.segment
    return decode.generate(self.model, self.params, request, segment)

  def declared(self, length: int) -> 'Loaded':
    """The same, for texts of `length` tokens, read and written, in all.

    It matters to rotary stretches that go by the length: dynamicntk, longrope.
    """
    position = self.model.position.declared(length)
    model = dataclasses.replace(self.model, position=position)
    return dataclasses.replace(self, model=model)

  def trimmed(self) -> 'Loaded':
    """The same, with no more memory than its learned spans look at.

    A model whose heads have no span stays as it is.
    """
    model = spans.trimmed(self.model, self.params)
    return dataclasses.replace(self, model=model)

  def score(self, text: str | bytes) -> np.ndarray:
    """Nats of every token of a text, given all before it: float32 [tokens]."""
    segment = self.config.data.segment
    ids = self.encode(text)
    return decode.score(self.model, self.params, ids, segment)

  def encode(self, text: str | bytes) -> np.ndarray:
    """Ids of a text, int32, opened by the tokenizer's start mark."""
    start = np.array([self.codec.start], np.int32)
    return np.concatenate([start, self.codec.encode(text)])


def load(workdir: str | Path, *, checkpoint: str | int = 'best') -> Loaded:
  """A model trained in `workdir`, on the first device.

  `checkpoint`: 'best' by validation (else the latest), 'latest', or a step.

  Raises:
    UserError: nothing was trained there, or no such checkpoint.
  """
  folder = Path(workdir).expanduser()
  config = configs.read(folder)
  with checking():
    codec = data.load_codec(folder)
    model = _runnable(config.model.with_vocabulary(codec.size))
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
