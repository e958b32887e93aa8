"""A trained model with its parameters and tokenizer, ready to use."""

import dataclasses
import functools
import logging
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from tqdm.std import tqdm

from lctx import config as configs
from lctx import data, fits
from lctx.checksum import table
from lctx.config import Config
from lctx.data.long_texts import LongTexts
from lctx.generation import decode, memory_file, reading, windows
from lctx.generation.reading import Remembered
from lctx.generation.sampling import Sampling
from lctx.interop.answers import Asked, Said, answers
from lctx.interop.hugging_face import Pretrained
from lctx.models import spans
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.tasks import Words
from lctx.models.text import Decoder, Encoder
from lctx.types import Params

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
  """What `lctx.load` gives.

  A decoder writes on, scores and reads text; an encoder-decoder writes what
  belongs to a text. `answers` are what a published model says of texts.
  """

  model: Decoder | Encoder | EncoderDecoder
  params: Params
  codec: data.Codec
  config: Config
  step: int  # of training, at which `params` were saved
  published: Pretrained | None = None  # what was read, where it was published

  def generate(
    self,
    prompt: str | list[str] = '',
    max_new_tokens: int = 200,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
    after: Remembered | None = None,
  ) -> str | list[str]:
    """What the model writes after a prompt, or after each of several.

    Each goes on `after` what was read before, if that is given. Of an
    encoder-decoder: what it writes of each text.

    Raises:
      ValueError: a prompt that the tokenizer cannot spell, or one that is too
        long and that `config.data.long_texts` refuses.
      UserError: `after` is the memory of another model, or what the model
        makes of the text is not finite.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    tokens = self.stream(
      prompts, max_new_tokens, sampling=sampling, seed=seed, after=after
    )
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
    after: Remembered | None = None,
  ) -> Iterator[np.ndarray]:
    """New tokens as they come, int32 [prompts] each; None: for ever.

    Raises what `generate` raises.
    """
    if isinstance(self.model, EncoderDecoder):
      self._check_words()
      return self._written(prompts, max_new_tokens, sampling, seed, after)
    self._check_decodes()
    request = decode.Request(
      [self._ids(text, after) for text in prompts],
      max_new_tokens,
      sampling or Sampling(),
      seed,
      after=after,
    )
    lanes = self.config.data
    given = self.model, self.params, request, lanes.segment
    return windows.write(*given, lanes.long_texts)

  def _written(self, prompts, max_new_tokens, sampling, seed, after):
    """What a decoder writes beside an encoder that has read each text whole."""
    if after is not None or max_new_tokens is None:
      raise ValueError(
        'An encoder-decoder reads each text whole and writes a text that ends. '
        'Give max_new_tokens, and no `after`.'
      )
    model, lanes = self.model, self.config.data
    objective = lanes.objective.with_ids(self.codec.size)
    limit = model.decoder.position.segment_limit
    if limit is not None and max_new_tokens > limit:
      raise ValueError(
        f'max_new_tokens = {max_new_tokens} is more than the {limit} for which '
        'model.decoder.position has places. Ask for fewer.'
      )
    texts = [self.codec.encode(text) for text in prompts]
    reading.check_tokens(model.source, texts)
    asked = objective, texts, lanes.segment, lanes.long_texts
    context = windows.context(model, self.params, *asked)
    request = decode.Request(
      [np.array([objective.start], np.int32)] * len(texts),
      max_new_tokens,
      sampling or Sampling(),
      seed,
      stop=objective.end,
      context=context,
    )
    params = model.params_of(self.params, 'decoder')
    return decode.generate(model.target, params, request, max_new_tokens + 1)

  def _check_words(self) -> None:
    if not isinstance(self.model.task, Words):
      raise ValueError(
        f'model.task = {self.model.task} asks for no words, so nothing is '
        'written or scored. Load a model that predicts them; `answers` gives '
        'what this one says of a text.'
      )

  def _check_decodes(self) -> None:
    if not isinstance(self.model, Decoder):
      kind = type(self.model).__name__.lower()
      raise ValueError(
        f'The model is an {kind}, which predicts no next token. Load a decoder '
        'for that; `answers` gives what a published encoder says of a text.'
      )
    self._check_words()

  def declared(self, length: int) -> 'Loaded':
    """The same, for texts of `length` tokens, read and written, in all.

    It matters to rotary stretches that go by the length: dynamicntk, longrope.
    """
    position = self.model.position.declared(length)
    model = dataclasses.replace(self.model, position=position)
    return dataclasses.replace(self, model=model)

  def with_long_texts(self, policy: LongTexts) -> 'Loaded':
    """The same, but texts that are too long for the model are read so.

    Raises ValueError where it cannot read them so.
    """
    fits.check_long_texts(self.model, policy)
    lanes = dataclasses.replace(self.config.data, long_texts=policy)
    config = dataclasses.replace(self.config, data=lanes)
    return dataclasses.replace(self, config=config)

  def trimmed(self) -> 'Loaded':
    """The same, with no more memory than its learned spans look at.

    A model whose heads have no span stays as it is.
    """
    model = spans.trimmed(self.model, self.params)
    return dataclasses.replace(self, model=model)

  def score(
    self, text: str | bytes, *, after: Remembered | None = None
  ) -> np.ndarray:
    """Nats of every token of a text, given all before it: float32 [tokens].

    Of too long a text: of the tokens that `config.data.long_texts` reads, given
    those before it in their window. Raises what `generate` raises, and
    ValueError for a text without a token.
    """
    self._check_decodes()
    ids, lanes = self._ids(text, after), self.config.data
    given = self.model, self.params, ids, lanes.segment
    return windows.score(*given, lanes.long_texts, after)

  def answers(self, texts: list[Asked]) -> list[Said]:
    """What a published model says of each text, or pair of them.

    Labels of texts or tokens, ends of answers, states or logits: whatever its
    head gives. Long texts are read as `config.data.long_texts` says.

    Raises:
      ValueError: a model that was trained here, a text without a token, or one
        that is too long and refused.
    """
    if self.published is None:
      raise ValueError(
        'Only a published model knows the marks of its texts. Write this one '
        'with `python -m lctx.interop export`, and load that folder.'
      )
    same = self.published._replace(model=self.model, params=self.params)
    lanes = self.config.data
    return answers(same, self.codec, texts, lanes.long_texts, lanes.segment)

  def read(
    self, text: str | bytes, *, after: Remembered | None = None
  ) -> Remembered:
    """What the model remembers of a text, read `after` another one.

    Reading A and then B is reading A + B, as far as the tokenizer spells both
    ways alike: text is spelled for each call. A memory is of this model alone,
    `declared` and `trimmed` ones included. Raises what `generate` raises.
    """
    self._check_decodes()
    ids, lanes = self._ids(text, after), self.config.data
    reading.check_tokens(self.model, [ids])
    known, text_hash, limit = 0, '', self.model.length
    if after is not None:
      known, text_hash = after.tokens, after.text_hash
    left = None if limit is None else limit - known
    (ids,) = windows.whole(lanes.long_texts, [ids], left, int(after is None))
    with tqdm(
      total=len(ids), unit=' tokens', delay=2, disable=None, dynamic_ncols=True
    ) as bar:

      def told(tokens, state):
        jax.block_until_ready(state.step)  # or the bar would run ahead
        bar.update(tokens)

      read = self.model, self.params, [ids], lanes.segment, after
      _, state = reading.read(*read, told)
    reading.check_finite(state)
    text_hash = memory_file.grown(text_hash, ids)
    return Remembered(state, known + len(ids), text_hash, self.maker)

  @functools.cached_property
  def maker(self) -> dict[str, str]:
    """All that a memory depends on, by name: what made it, and can use it."""
    model = configs.to_json(self.model)
    for name in ('compute', 'dropout', 'memory', 'position'):
      del model[name]
    return {
      'memory': str(self.model.memory),
      'position': str(self.model.position),
      'segment': str(self.config.data.segment),
      'dtype': self.model.compute.dtype,
      'rest of the model': memory_file.hash_of(model),
      'parameters': memory_file.hash_of(table(self.params)),
      'tokenizer': str(self.codec),
    }

  def _ids(self, text: str | bytes, after: Remembered | None) -> np.ndarray:
    """With the start mark, where nothing was read before."""
    if after is None:
      return self.encode(text)
    memory_file.check_maker(
      after.maker, self.maker, 'The memory to go on after'
    )
    return self.codec.encode(text)

  def encode(self, text: str | bytes) -> np.ndarray:
    """Ids of a text, int32, opened by the tokenizer's start mark."""
    start = np.array([self.codec.start], np.int32)
    return np.concatenate([start, self.codec.encode(text)])


def load_memory(path: str | Path, loaded: Loaded) -> Remembered:
  """What `loaded`, or the same model elsewhere, read and `save_memory` wrote.

  Raises:
    UserError: no such file, no memory, or one that another model made.
  """
  segment = loaded.config.data.segment
  empty = jax.eval_shape(
    lambda: reading.begin(loaded.model, loaded.params, 1, segment)[1]
  )
  return memory_file.read_memory(path, loaded.maker, empty)
