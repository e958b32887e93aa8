"""A trained model with its parameters and tokenizer, ready to use."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from lctx import config as configs
from lctx import data
from lctx.checkpoint import CheckpointStore, compare
from lctx.config import Config
from lctx.errors import UserError, checking
from lctx.generation import decode
from lctx.generation.sampling import Sampling
from lctx.models.decoder import Decoder
from lctx.sharding import mesh as meshes
from lctx.training.state import abstract_state
from lctx.types import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
  """What `lctx.load` gives."""

  model: Decoder
  params: Params
  codec: data.Codec
  config: Config
  step: int  # updates' worth of training behind `params`

  def generate(
    self,
    prompt: str | list[str] = '',
    max_new_tokens: int | None = 200,
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
    """New tokens as they come, int32 [number of prompts] each; None: for ever.

    A row of which nothing more comes (the text ended) yields -1.
    """
    request = decode.Request(
      [self.encode(text) for text in prompts],
      max_new_tokens,
      sampling or Sampling(),
      seed,
    )
    segment = self.config.data.segment
    return decode.generate(self.model, self.params, request, segment)

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
  folder = Path(workdir)
  config = configs.read(folder)
  with checking():
    codec = data.load_codec(folder)
    model = config.model.with_vocabulary(codec.size)
    mesh = meshes.build(meshes.Mesh(data=1), jax.devices()[:1])
    abstract = abstract_state(
      model,
      config.optimizer.transform(config.train.steps, model.axes()),
      config.data.rows,
      mesh,
      bool(config.train.ema),
    )
    with CheckpointStore(folder / 'checkpoints', config.checkpoint) as store:
      restored = store.restore(
        abstract,
        _step(store, checkpoint),
        lambda meta: compare(
          {'tokenizer': meta['fingerprint']['tokenizer']},
          {'tokenizer': codec.hash},
        ),
      )
  if restored is None:
    raise UserError(
      f'workdir = {str(workdir)!r} has no checkpoint yet. Let train.py run '
      'until it has saved one.'
    )
  params = restored.state.evaluated
  return Loaded(model, params, codec, config, restored.step)


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
