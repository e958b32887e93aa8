"""Llama, Mistral, Qwen 2.5 and Qwen 3 as Hugging Face names them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from lctx import presets
from lctx.interop import rotary
from lctx.interop.family import Family
from lctx.interop.layers import array, into_heads, linear, norm, out_of_heads
from lctx.interop.options import Options
from lctx.interop.tables import Entry, of_layers
from lctx.layers.ffn import Swiglu
from lctx.layers.norm import RMSNorm
from lctx.models.parts import Dropout
from lctx.models.text import Decoder
from lctx.patterns import Window
from lctx.positions import Rope
from lctx.presets.decoders import Windows

BODY = 'model.'


def model_for(options: Options, own: Callable) -> Decoder:
  """`own` reads what differs from family to family."""
  options.expect('hidden_act', 'silu')
  longest = options.take('max_position_embeddings', 2048)
  depth, heads, sizes = sizes_of(options)
  norm = RMSNorm(options.take('rms_norm_eps', 1e-6))
  more = own(options, depth, norm)
  model = presets.llama(
    depth,
    options.take('hidden_size'),
    heads,
    longest,
    window=more.get('window'),
    embed={
      'vocab': options.take('vocab_size'),
      'tie_weights': options.take('tie_word_embeddings', False),
    },
    stack={
      'head_width': options.take('head_dim', None),
      'ffn_width': options.take('intermediate_size'),
      'norm': norm,
      'ffn': more.get('ffn', Swiglu()),
    },
    heads=sizes | more.get('heads', {}),
    position=rotary.read(options, longest=longest),
    dropout=Dropout(attention=options.take('attention_dropout', 0.0)),
  )
  options.check_all_read(['initializer_range', 'max_sequence_length'])
  return model


def sizes_of(options: Options) -> tuple[int, int, dict[str, Any]]:
  """Layers, heads of queries, and those of keys as fields of `heads`."""
  heads = options.take('num_attention_heads')
  keys = options.take('num_key_value_heads', heads)
  depth = options.take('num_hidden_layers')
  return depth, heads, {'keys': None if keys == heads else keys}


def _of_llama(options, depth, norm):
  ffn = Swiglu(bias=options.take('mlp_bias', False))
  return {'heads': biases(options), 'ffn': ffn}


def _of_mistral(options, depth, norm):
  return {'window': options.take('sliding_window', 4096, null=None)}


def _of_qwen2(options, depth, norm):
  options.expect('use_mrope', False)
  return {'heads': {'bias': True}, 'window': _qwen_window(options, depth)}


def _of_qwen3(options, depth, norm):
  heads = {'norm': norm, **biases(options)}
  return {'heads': heads, 'window': _qwen_window(options, depth)}


def biases(options: Options) -> dict[str, bool]:
  """All four projections of attention have them, or none has."""
  both = options.take('attention_bias', False)
  return {'bias': both, 'out_bias': both}


def _qwen_window(options: Options, depth: int) -> Windows:
  """The first `max_window_layers` see all, the others a window, if at all."""
  on = options.take('use_sliding_window', False)
  width = options.take('sliding_window', 4096, null=None)
  first = options.take('max_window_layers', 28)
  kinds = [
    'sliding_attention' if on and width and i >= first else 'full_attention'
    for i in range(depth)
  ]
  return window_of(options, width, kinds)


KINDS = 'full_attention', 'sliding_attention'


def window_of(
  options: Options, width: int | None, default: list[str]
) -> Windows:
  """Of `layer_types`, or of the `default` ones.

  Raises ValueError for a kind that is not known, or a window without a width.
  """
  kinds = options.take('layer_types', default)
  if not {*kinds} <= {*KINDS} or (KINDS[1] in kinds and not width):
    raise ValueError(
      f'{options.where} has layer_types {sorted({*kinds})} with sliding_window '
      f'= {width}. Known are {" and ".join(KINDS)}, the second with a width.'
    )
  each = period_of([width if kind == KINDS[1] else None for kind in kinds])
  return each[0] if len(each) == 1 else each


def period_of(each: Sequence) -> tuple:
  """The shortest beginning that is repeated, as far as they go."""
  for size in range(1, len(each) + 1):
    if all(x == each[i % size] for i, x in enumerate(each)):
      return tuple(each[:size])
  return ()


def layer_types(model: Decoder) -> list[str]:
  """The way back of `window_of`."""
  patterns = model.pattern.of_layers(model.stack.depth)
  return [KINDS[isinstance(pattern, Window)] for pattern in patterns]


def config_of(model: Decoder, kind: str, own: Callable) -> dict[str, Any]:
  """`own` says what differs from family to family."""
  stack, sizes = model.stack, model.sizes()
  return {
    'model_type': kind,
    'num_hidden_layers': stack.depth,
    'hidden_size': model.embed.width,
    'num_attention_heads': stack.num_heads,
    'num_key_value_heads': sizes.key_heads,
    'head_dim': sizes.head_width,
    'intermediate_size': stack.ffn_width_of(model.embed.width),
    'vocab_size': model.embed.vocab,
    'max_position_embeddings': model.memory.length,
    'hidden_act': 'silu',
    'rms_norm_eps': stack.norm.epsilon,
    'tie_word_embeddings': model.embed.tie_weights,
    'rope_parameters': rotary.write(model.position),
    'attention_dropout': model.dropout.attention,
    **own(model),
  }


def _llama_says(model):
  return {
    'attention_bias': model.heads.bias,
    'mlp_bias': model.stack.ffn.bias,
  }


def _mistral_says(model):
  return {'sliding_window': width_of(model)}


def _qwen2_says(model):
  width, kinds = width_of(model), layer_types(model)
  first = kinds.index(KINDS[1]) if width else model.stack.depth
  return {
    'use_sliding_window': width is not None,
    'sliding_window': width,
    'max_window_layers': first,
    'layer_types': kinds,
  }


def _qwen3_says(model):
  return {'attention_bias': model.heads.bias, **_qwen2_says(model)}


def width_of(model: Decoder) -> int | None:
  """Of the window that some layers have, if any."""
  patterns = model.pattern.of_layers(model.stack.depth)
  found = {x.before + 1 for x in patterns if isinstance(x, Window)}
  return min(found, default=None)


def entries(model: Decoder) -> list[Entry]:
  width, vocab, sizes = model.embed.width, model.embed.vocab, model.sizes()
  found = [
    array(
      f'{BODY}embed_tokens.weight', ('vocabulary', 'table_0'), vocab, width
    ),
    *norm(f'{BODY}norm', 'final_norm', width, bias=False),
  ]
  if not model.embed.tie_weights:
    path = 'vocabulary', 'out_table_0'
    found.append(array('lm_head.weight', path, vocab, width))
  of_one = [*_attention(model, sizes), *_feed_forward(model), *_norms(model)]
  return found + of_layers(model, of_one, f'{BODY}layers.{{}}.')


def _attention(model, sizes):
  heads, width = model.heads, sizes.width
  for name, leaf, count in (
    ('q', 'query', sizes.num_heads),
    ('k', 'key', sizes.key_heads),
    ('v', 'value', sizes.key_heads),
  ):
    shape = count, sizes.head_width
    name = f'self_attn.{name}_proj'
    yield from into_heads(name, leaf, width, shape, bias=heads.bias)
  shape = sizes.num_heads, sizes.head_width
  name = 'self_attn.o_proj'
  yield from out_of_heads(name, width, shape, bias=heads.out_bias)
  if heads.norm is not None:
    for name, leaf in (('q_norm', 'query_norm'), ('k_norm', 'key_norm')):
      path = 'attention', leaf, 'scale'
      yield array(f'self_attn.{name}.weight', path, sizes.head_width)


def _feed_forward(model):
  width, bias = model.embed.width, model.stack.ffn.bias
  hidden = model.stack.ffn_width_of(width)
  for name, leaf, shape in (
    ('gate', 'gate', (width, hidden)),
    ('up', 'in', (width, hidden)),
    ('down', 'out', (hidden, width)),
  ):
    yield from linear(f'mlp.{name}_proj', leaf, shape, bias=bias)


def _norms(model):
  """Gemma 2 has two more, and calls the one before the feed-forward part so."""
  names = {'input': 'norm_0', 'post_attention': 'norm_1'}
  if model.stack.norm_after:
    names = {
      'input': 'norm_0',
      'post_attention': 'after_0',
      'pre_feedforward': 'norm_1',
      'post_feedforward': 'after_1',
    }
  for name, leaf in names.items():
    yield from norm(f'{name}_layernorm', leaf, model.embed.width, bias=False)


def tied(model: Decoder) -> dict[str, str]:
  if not model.embed.tie_weights:
    return {}
  return {'lm_head.weight': f'{BODY}embed_tokens.weight'}


def _family(kind: str, own: Callable, says: Callable) -> Family:
  return Family(
    functools.partial(model_for, own=own),
    functools.partial(config_of, kind=kind, own=says),
    entries,
    tied,
    body=BODY,
    parts={'position': Rope, 'stack.norm': RMSNorm, 'stack.ffn': Swiglu},
    ignored=lambda name: name.endswith('.rotary_emb.inv_freq'),
  )


FAMILIES = {
  'LlamaForCausalLM': _family('llama', _of_llama, _llama_says),
  'MistralForCausalLM': _family('mistral', _of_mistral, _mistral_says),
  'Qwen2ForCausalLM': _family('qwen2', _of_qwen2, _qwen2_says),
  'Qwen3ForCausalLM': _family('qwen3', _of_qwen3, _qwen3_says),
}
