"""Models of llama2.c: one `.bin` file, a header and then float32 numbers.

Its rotary pairs are neighbouring channels. A vocabulary below zero says that
the output has a table of its own, which stands last.
"""

import dataclasses
from pathlib import Path

import numpy as np

from lctx import presets
from lctx.interop import llama, tables
from lctx.interop.family import check_exports, check_parts
from lctx.layers.norm import RMSNorm
from lctx.models.text import Decoder
from lctx.positions import Rope
from lctx.positions.stretch import plain
from lctx.types import Params

HEADER = 7  # int32: width, hidden, depth, heads, key heads, vocabulary, length
LAYERS = (  # stacked over layers, by the names of a Llama's arrays
  'input_layernorm',
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'post_attention_layernorm',
  'mlp.gate_proj',
  'mlp.down_proj',
  'mlp.up_proj',
)


def load(path: str | Path) -> tuple[Decoder, Params]:
  """The model of a file, and its parameters, float32.

  Raises:
    ValueError: no such file, or one that is cut off or of another kind.
  """
  path = Path(path)
  if not path.is_file():
    raise ValueError(f'There is no file {path}. Give the .bin of llama2.c.')
  data = path.read_bytes()
  header = np.frombuffer(data[: 4 * HEADER], '<i4').tolist()
  if len(header) < HEADER or min(header[:5] + header[6:]) < 1 or not header[5]:
    raise ValueError(
      f'{path} does not begin with the sizes of a llama2.c model: {header}. '
      'Give the .bin of llama2.c, version 0.'
    )
  model = _model_for(header)
  wanted, given = _shapes(model), (len(data) - 4 * HEADER) / 4
  count = sum(int(np.prod(shape)) for _, shape in wanted)
  if given != count:
    raise ValueError(
      f'{path} holds {given:,.0f} numbers, but a model of its sizes {header} '
      f'has {count:,}. Copy it again.'
    )
  arrays, rest = {}, np.frombuffer(data, '<f4', offset=4 * HEADER)
  for name, shape in wanted:
    part, rest = np.split(rest, [int(np.prod(shape))])
    arrays |= _named(name, part.reshape(shape))
  return model, tables.read(arrays, llama.entries(model), {}, _is_unused)


def as_llama(model: Decoder, params: Params) -> tuple[Decoder, Params]:
  """The same function with channels in the order of Hugging Face's Llama.

  Rotary positions turn pairs of neighbours here, and of halves there.
  """
  width = model.sizes().head_width
  order = np.r_[0:width:2, 1:width:2]
  attention = dict(params['layers']['attention'])
  for name in ('query', 'key'):
    attention[name] = attention[name][..., order]
  layers = {**params['layers'], 'attention': attention}
  position = dataclasses.replace(model.position, interleaved=False)
  return model.clone(position=position), {**params, 'layers': layers}


def save(path: str | Path, model: Decoder, params: Params) -> None:
  """Writes such a file.

  Raises:
    ValueError: a model that the format has no words for.
  """
  check_parts(model, llama.FAMILIES['LlamaForCausalLM'], 'llama2.c')
  header = _header(model)
  check_exports(model, _model_for(header), 'llama2.c')
  arrays = tables.write(params, llama.entries(model), {})
  turns = np.arange(model.memory.length)[:, None] * plain(
    model.sizes().head_width, model.position.base
  )
  arrays |= {'cosines': np.cos(turns), 'sines': np.sin(turns)}
  parts = [np.array(header, '<i4').tobytes()]
  for name, _ in _shapes(model):
    if name in LAYERS:
      layers = range(model.stack.depth)
      array = np.stack([arrays[_of_layer(name, i)] for i in layers])
    else:
      array = arrays[name]
    parts.append(np.ascontiguousarray(array, '<f4').tobytes())
  Path(path).write_bytes(b''.join(parts))


def _model_for(header: list[int]) -> Decoder:
  width, hidden, depth, heads, key_heads, vocab, length = header
  return presets.llama(
    depth,
    width,
    heads,
    length,
    embed={'vocab': abs(vocab), 'tie_weights': vocab > 0},
    stack={'ffn_width': hidden, 'norm': RMSNorm(1e-5)},
    heads={'keys': None if key_heads == heads else key_heads},
    position=Rope(interleaved=True),
  )


def _header(model: Decoder) -> list[int]:
  sizes, vocab = model.sizes(), model.embed.vocab
  return [
    sizes.width,
    model.stack.ffn_width_of(sizes.width),
    model.stack.depth,
    sizes.num_heads,
    sizes.key_heads,
    vocab if model.embed.tie_weights else -vocab,
    model.memory.length,
  ]


def _shapes(model: Decoder) -> list[tuple[str, tuple[int, ...]]]:
  """All arrays of the file, in order."""
  shapes = {e.name: e.shape for e in llama.entries(model)}
  depth, angles = model.stack.depth, model.sizes().head_width // 2
  names = ['model.embed_tokens.weight', *LAYERS, 'model.norm.weight']
  found = [
    (x, (depth, *shapes[_of_layer(x, 0)]) if x in LAYERS else shapes[x])
    for x in names
  ]
  for angle in ('cosines', 'sines'):  # of every position and pair
    found.append((angle, (model.memory.length, angles)))
  if not model.embed.tie_weights:
    found.append(('lm_head.weight', shapes['lm_head.weight']))
  return found


def _named(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
  if name not in LAYERS:
    return {name: array}
  return {_of_layer(name, i): one for i, one in enumerate(array)}


def _of_layer(name: str, layer: int) -> str:
  return f'{llama.BODY}layers.{layer}.{name}.weight'


def _is_unused(name: str) -> bool:
  return name in ('cosines', 'sines')
