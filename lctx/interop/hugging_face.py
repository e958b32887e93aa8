"""A folder as Hugging Face's libraries write it: config.json and weights."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lctx.interop import (
  bart,
  bert,
  big_bird,
  bloom,
  gemma,
  gpt2,
  gpt_neox,
  heads,
  llama,
  t5,
  tables,
)
from lctx.interop.encoders import READ_AS
from lctx.interop.family import Family, check_exports, check_parts
from lctx.interop.inputs import Given, Text
from lctx.interop.options import Options
from lctx.memory import Memory
from lctx.models.carry import ModelCarry
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.tasks import Spans, States, TextLabels, TextScores, Words
from lctx.models.text import Decoder, TextModel
from lctx.types import Array, Params

_DECODERS = {
  **bloom.FAMILIES,
  **gemma.FAMILIES,
  **gpt2.FAMILIES,
  **gpt_neox.FAMILIES,
  **llama.FAMILIES,
}
FAMILIES = {
  **bart.FAMILIES,
  **bert.FAMILIES,
  **big_bird.FAMILIES,
  **_DECODERS,
  **heads.of_decoders(_DECODERS),
  **t5.FAMILIES,
}
_log = logging.getLogger(__name__)
KEPT = (
  *('bos_token_id', 'eos_token_id', 'pad_token_id', 'unk_token_id'),
  *('sep_token_id', 'decoder_start_token_id'),
  *('forced_bos_token_id', 'forced_eos_token_id'),
  *('max_position_embeddings', 'seq_length'),
)
WEIGHTS, INDEX = 'model.safetensors', 'model.safetensors.index.json'


class Pretrained(NamedTuple):
  """A published model."""

  architecture: str
  model: TextModel | EncoderDecoder
  params: Params  # float32
  config: dict[str, Any]  # as it was read


def load(folder: str | Path) -> Pretrained:
  """The model of a folder with `config.json` and `model.safetensors`.

  Raises:
    ValueError: a file that is missing, damaged or of another kind, a model, an
      option or an array that is not known.
  """
  folder = Path(folder)
  config = config_in(folder)
  name = architecture(config, folder)
  family = FAMILIES[name]
  arrays = _arrays(folder)
  where = str(folder / 'config.json')
  model = family.model_for(Options(config, where, arrays))
  wanted = family.entries(model)
  arrays = _bodied(arrays, family, wanted)
  unused = family.unused(model)

  def ignored(name: str) -> bool:
    return name in unused or family.ignored(name)

  read = arrays, wanted, family.tied(model), ignored
  left = sorted(filter(ignored, arrays))
  if left:
    _log.info(f'{folder}: no output depends on {", ".join(left)}; not read')
  return Pretrained(name, model, tables.read(*read), config)


def save(
  folder: str | Path,
  model: TextModel | EncoderDecoder,
  params: Params,
  architecture: str,
  *,
  like: Mapping[str, Any] | None = None,
) -> None:
  """Writes such a folder, which `transformers` reads as its own.

  `like` is the config of the model it came from: ids of marks and the length
  that it was trained to read, which a model of lctx does not know, are its own,
  and so is the cache of a decoder that was trained without one.

  Raises:
    ValueError: a model that files of this architecture have no words for.
  """
  if architecture not in FAMILIES:
    raise ValueError(
      f'architecture = {architecture!r} is not written here. Known are '
      f'{", ".join(FAMILIES)}.'
    )
  family, folder = FAMILIES[architecture], Path(folder)
  if like and isinstance(model, Decoder) and model.memory == Memory():
    before = family.model_for(Options(like, 'like'))
    model = model.clone(memory=before.memory)
  check_parts(model, family, architecture)
  config = {
    'architectures': [architecture],
    'dtype': 'float32',
    **family.config_of(model),
  }
  config |= {x: like[x] for x in KEPT if like and x in like}
  for name in ('id2label', 'label2id'):  # of as many labels
    if like and len(like.get(name) or ()) == len(config.get(name, ())):
      config |= {name: like[name]} if name in like else {}
  arrays = tables.write(params, family.entries(model), {})
  unused = family.unused(model)
  arrays |= {x: np.zeros(shape, np.float32) for x, shape in unused.items()}
  again = family.model_for(Options(config, 'config.json', arrays))
  check_exports(model, again, architecture)
  folder.mkdir(parents=True, exist_ok=True)
  arrays = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
  save_file(arrays, folder / WEIGHTS, metadata={'format': 'pt'})
  text = json.dumps(config, indent=2) + '\n'
  (folder / 'config.json').write_text(text)


def outputs(published: Pretrained, given: Given) -> dict[str, Array]:
  """What it gives, float32, by the names that it has in `transformers`.

  `given` holds arrays [B, T] by the names of its arguments there: `input_ids`,
  `attention_mask`, `token_type_ids`, `global_attention_mask`. It is read in one
  window. To compare, or to see what a model says of a text.

  T, padding included, is declared: rotary stretches that go by the length go by
  that of the call, as in a model that `transformers` has just loaded. (One that
  has read a longer text may still go by that.)
  """
  model, read = published.model, placed(published, given)
  if isinstance(read, Text):  # no pair has rotary positions
    model = model.clone(position=model.position.declared(read.at.length))
  return said(model, published.params, read)[0]


def placed(published: Pretrained, given: Given) -> Any:
  """What it is given as its model reads it: a Text, or a Pair of them."""
  return FAMILIES[published.architecture].inputs(given, published.config)


def of_texts(model: TextModel | EncoderDecoder) -> set[str]:
  """The outputs that have one row a text, and not one a token."""
  return {'pooler_output'} | (
    {'logits'} if isinstance(model.task, TextLabels | TextScores) else set()
  )


def said(
  model: TextModel | EncoderDecoder,
  params: Params,
  read: Any,
  carry: ModelCarry | None = None,
  segment: int | None = None,
) -> tuple[dict[str, Array], ModelCarry]:
  """The outputs, and the carry after them; `carry` is what was read before.

  `segment`: that in which an encoder beside a decoder reads, None = in one.
  """
  found = {}
  if isinstance(model, EncoderDecoder):
    carry, _ = model.read(params, *read.source, segment=segment)
    found['encoder_last_hidden_state'] = carry.context.x[0]
    model, params = model.target, model.params_of(params, 'decoder')
    tokens, at = read.target
  else:
    tokens, at = read
    carry = model.initial(len(tokens)) if carry is None else carry
  variables = {'params': params}
  hidden, carry, _ = model.apply(variables, tokens, at, carry)
  answers = model.apply(variables, hidden, at, method='answers')
  match model.task:
    case Words():
      found['logits'] = model.apply(variables, hidden, method='logits')
    case States(pooled=True):
      found |= {'last_hidden_state': hidden, 'pooler_output': answers}
    case States():
      found['last_hidden_state'] = answers
    case Spans():
      found['start_logits'], found['end_logits'] = jnp.moveaxis(answers, 2, 0)
    case _:
      found['logits'] = answers
  return found, carry


def config_in(folder: Path) -> dict[str, Any]:
  """Its `config.json`. Raises ValueError where there is none, or no JSON."""
  return _json(folder / 'config.json')


def architecture(config: Mapping[str, Any], folder: Path) -> str:
  """The first of `architectures` that is known, or what it is read as.

  Raises ValueError for none.
  """
  names = config.get('architectures') or []
  if not isinstance(names, list):
    raise ValueError(
      f'{folder / "config.json"} has architectures = {names!r:.60}, which must '
      'be a list of names. Copy it again.'
    )
  known = [READ_AS.get(x, x) for x in names if x in {**FAMILIES, **READ_AS}]
  if not known:
    listed = ', '.join([*FAMILIES, *READ_AS])
    raise ValueError(
      f'{folder / "config.json"} is of {", ".join(names) or "no architecture"}'
      f', which is not read here. Known are {listed}.'
    )
  return known[0]


def _arrays(folder: Path) -> dict[str, np.ndarray]:
  """Of one file, or of all that an index names."""
  if (folder / WEIGHTS).is_file():
    return _of_file(folder / WEIGHTS)
  if (folder / INDEX).is_file():
    named = _json(folder / INDEX).get('weight_map')
    if not isinstance(named, dict) or not named:
      raise ValueError(
        f'{folder / INDEX} is damaged: its weight_map names no file. Copy it '
        'again.'
      )
    files = sorted({*named.values()})
    found = {}
    for name in files:
      found |= _of_file(folder / name)
    return found
  pickled = sorted(x.name for x in folder.glob('pytorch_model*.bin'))
  if pickled:
    raise ValueError(
      f'{folder} has its weights in {pickled[0]}, a pickle, which can run code '
      'when it is read. Load it with transformers and save_pretrained it to '
      'another folder, which makes a safetensors file.'
    )
  raise ValueError(
    f'{folder} has no {WEIGHTS} and no {INDEX}. Give the folder that holds the '
    'weights.'
  )


def _of_file(path: Path) -> dict[str, np.ndarray]:
  if not path.is_file():
    raise ValueError(
      f'There is no file {path}, though the index beside it names it. Copy '
      'all files of the model.'
    )
  try:
    with safe_open(path, 'flax') as file:  # numpy has no bfloat16
      names = file.keys()
      return {
        _today(x): np.asarray(file.get_tensor(x), np.float32) for x in names
      }
  except SafetensorError as error:
    raise ValueError(f'{path} is damaged: {error}. Copy it again.') from error


def _today(name: str) -> str:
  """As norms of the first files are called today."""
  for old, new in (('.gamma', '.weight'), ('.beta', '.bias')):
    if name.endswith(f'LayerNorm{old}'):
      return name.removesuffix(old) + new
  return name


def _bodied(arrays, family: Family, wanted) -> dict[str, np.ndarray]:
  """With the names of files that have a head: some hold the body alone."""
  if any(name.startswith(family.body) for name in arrays):
    return arrays
  names = {x.name for x in wanted if x.name.startswith(family.body)}
  return {
    family.body + name if family.body + name in names else name: value
    for name, value in arrays.items()
  }


def _json(path: Path) -> dict[str, Any]:
  if not path.is_file():
    raise ValueError(
      f'There is no file {path}. Give a folder with a published model.'
    )
  try:
    found = json.loads(path.read_text())
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ValueError(f'{path} is damaged: {error}. Copy it again.') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} holds {found!r:.40} and no names. Copy it again.')
  return found
