"""Llama, Mistral, Qwen 2.5 and Qwen 3 as Hugging Face names them."""

import functools
from typing import Any

from lctx import presets
from lctx.interop import rotary
from lctx.interop.family import Family
from lctx.interop.layers import array, into_heads, linear, norm, out_of_heads
from lctx.interop.options import Options
from lctx.interop.tables import Entry, of_layer
from lctx.layers.norm import RMSNorm
from lctx.models.decoder import Decoder
from lctx.models.parts import Dropout
from lctx.patterns import Window

BODY = 'model.'


def model_for(options: Options, kind: str) -> Decoder:
  options.expect('hidden_act', 'silu')
  longest = options.take('max_position_embeddings')
  heads = options.take('num_attention_heads')
  epsilon = options.take('rms_norm_eps', 1e-6)
  depth = options.take('num_hidden_layers')
  model = presets.llama(
    depth,
    options.take('hidden_size'),
    heads,
    longest,
    vocab=options.take('vocab_size'),
    key_heads=options.take('num_key_value_heads', heads),
    head_width=options.take('head_dim', None),
    ffn_width=options.take('intermediate_size'),
    window=_window(options, depth, kind),
    ffn_bias=options.take('mlp_bias', False) if kind == 'llama' else False,
    key_norm=RMSNorm(epsilon) if kind == 'qwen3' else None,
    epsilon=epsilon,
    tie_weights=options.take('tie_word_embeddings', False),
    position=rotary.read(options, longest=longest),
    dropout=Dropout(attention=options.take('attention_dropout', 0.0)),
    **_biases(options, kind),
  )
  options.check_all_read(['initializer_range'])
  return model


def _biases(options: Options, kind: str) -> dict[str, bool]:
  """Of projections: Qwen 2.5 has them where heads begin alone."""
  if kind == 'mistral':
    return {}
  if kind == 'qwen2':
    return {'bias': True}
  both = options.take('attention_bias', False)
  return {'bias': both, 'out_bias': both}


def _window(options: Options, depth: int, kind: str) -> int | None:
  """Keys that each token sees, with its own; None = all."""
  if kind == 'llama':
    return None
  width = options.take('sliding_window', None)
  on = options.take('use_sliding_window', kind == 'mistral')
  first = options.take('max_window_layers', 28)
  first = 0 if kind == 'mistral' else first
  default = [
    'sliding_attention' if on and width and i >= first else 'full_attention'
    for i in range(depth)
  ]
  return window_of(options, width, default)


def window_of(
  options: Options, width: int | None, default: list[str]
) -> int | None:
  """Of `layer_types`, or of the `default` ones.

  Raises ValueError where some layers have a window and others have none.
  """
  kinds = {*options.take('layer_types', default)}
  if kinds == {'full_attention'}:
    return None
  if kinds == {'sliding_attention'} and width:
    return width
  raise ValueError(
    f'{options.where} has layer_types {sorted(kinds)} with sliding_window = '
    f'{width}: some layers have a window and others none, and a model of lctx '
    'has one model.pattern.'
  )


def config_of(model: Decoder, kind: str) -> dict[str, Any]:
  stack, heads, sizes = model.stack, model.heads, model.sizes()
  windowed = isinstance(model.pattern, Window)
  found = {
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
  }
  if kind in ('llama', 'qwen3'):
    found['attention_bias'] = heads.bias
  if kind == 'llama':
    found['mlp_bias'] = stack.ffn.bias
  if kind == 'mistral':
    found['sliding_window'] = model.pattern.before + 1 if windowed else None
  if kind.startswith('qwen'):
    found |= {
      'use_sliding_window': windowed,
      'sliding_window': model.pattern.before + 1 if windowed else None,
      'max_window_layers': 0 if windowed else stack.depth,
    }
  return found


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
  for layer in range(model.stack.depth):
    of_one = [*_attention(model, sizes), *_feed_forward(model), *_norms(model)]
    found += of_layer(of_one, f'{BODY}layers.{layer}.', layer)
  return found


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


def _family(kind: str) -> Family:
  return Family(
    functools.partial(model_for, kind=kind),
    functools.partial(config_of, kind=kind),
    entries,
    tied,
    body=BODY,
    ignored=lambda name: name.endswith('.rotary_emb.inv_freq'),
  )


FAMILIES = {
  'LlamaForCausalLM': _family('llama'),
  'MistralForCausalLM': _family('mistral'),
  'Qwen2ForCausalLM': _family('qwen2'),
  'Qwen3ForCausalLM': _family('qwen3'),
}
