"""A published model as a run that goes on with its own pretraining."""

from pathlib import Path
from typing import NamedTuple

from lctx import data
from lctx.checkpoint import Checkpoints
from lctx.config import Config
from lctx.data.objectives import (
  Bart,
  Causal,
  GapSentences,
  MaskedLM,
  Objective,
  SpanCorruption,
)
from lctx.evaluation.score import Evaluation
from lctx.interop import hugging_face
from lctx.interop.find import folder_of
from lctx.interop.hugging_face import Pretrained
from lctx.memory import Memory
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.text import Decoder, Encoder
from lctx.optimizer import Adam
from lctx.training.beginning import Beginning

SEGMENT = 512  # tokens that are read at a time, where positions do not end


class Found(NamedTuple):
  """A published model, its tokenizer, and a config that trains it on."""

  model: Pretrained
  codec: data.Codec
  config: Config


def find(name: str | Path) -> Found:
  """The model of a folder, or of the Hugging Face hub.

  Raises:
    ValueError: no such folder or model, or one that cannot be read.
  """
  folder = folder_of(name)
  found = hugging_face.load(folder)
  codec = data.published_codec(folder)
  lanes = data.Lanes(
    tokenizer=data.Published(str(folder)),
    rows=4,
    segment=_segment(found.model),
    objective=_objective(found, codec),
  )
  model = found.model
  if isinstance(model, Decoder):  # each window is a text, as in pretraining
    model = model.clone(memory=Memory())
  config = Config(
    model,
    lanes,
    Adam(peak=3e-5),
    eval=Evaluation(compare=lanes.predicts_next),
    init=Beginning(str(name)),
    checkpoint=_checkpoints(lanes),
  )
  return Found(found, codec, config)


def _checkpoints(lanes: data.Lanes) -> Checkpoints:
  """The best by bits per byte, where every token is predicted."""
  if lanes.predicts_next:
    return Checkpoints()
  return Checkpoints(metric='bits_per_token')


def _segment(model) -> int:
  """What all of its sides have positions for: a text is written whole."""
  pair = isinstance(model, EncoderDecoder)
  sides = (model.encoder, model.decoder) if pair else (model,)
  limits = [side.position.segment_limit for side in sides]
  limits += [model.memory.length] if isinstance(model, Decoder) else []
  return min(SEGMENT, *(limit or SEGMENT for limit in limits))


def _objective(found: Pretrained, codec: data.Codec) -> Objective:
  """What the model was pretrained by, in the marks of its tokenizer."""
  config, mark = found.config, _marks(codec)
  kind = config.get('model_type')
  if isinstance(found.model, Encoder):
    names = 'start', 'end', 'cls', 'sep', 'pad', 'mask'
    kept = tuple(sorted({mark(name) for name in names} - {None}))
    return MaskedLM(mask=_mask(mark), kept=kept)
  if not isinstance(found.model, EncoderDecoder):
    return Causal()
  start, end = _known(config, 'decoder_start_token_id', 'eos_token_id')
  if kind in ('bart', 'led'):
    (begin,) = _known(config, 'bos_token_id')
    return Bart(mask=_mask(mark), begin=begin, start=start, end=end)
  known = mark('sentinels') or range(codec.size + 99, codec.size - 1, -1)
  if kind == 'longt5':
    return GapSentences(mask=known[0], start=start, end=end)
  return SpanCorruption(
    sentinels=len(known), first_sentinel=known[0], start=start, end=end
  )


def _known(config: dict, *names: str) -> list[int]:
  """Ids of marks. Raises ValueError for one that the config does not say."""
  for name in names:
    if not isinstance(config.get(name), int):
      raise ValueError(
        f'config.json has {name} = {config.get(name)!r}, and one id is needed '
        'to go on with its pretraining. Add it to the file.'
      )
  return [config[name] for name in names]


def _mask(mark) -> int:
  if mark('mask') is None:
    raise ValueError(
      'The tokenizer has no mask, which the model was pretrained with. Copy '
      'tokenizer_config.json from where the model is.'
    )
  return mark('mask')


def _marks(codec: data.Codec):
  return lambda name: getattr(codec, name, None)
