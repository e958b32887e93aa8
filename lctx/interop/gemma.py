"""Gemma, Gemma 2 and 3 as Hugging Face names them; the arrays are Llama's."""

import functools
from collections.abc import Callable
from typing import Any

from lctx import presets
from lctx.interop import rotary
from lctx.interop.family import Family
from lctx.interop.llama import (
  BODY,
  KINDS,
  biases,
  entries,
  layer_types,
  sizes_of,
  tied,
  width_of,
  window_of,
)
from lctx.interop.options import Options
from lctx.layers.ffn import Geglu
from lctx.layers.norm import RMSNorm
from lctx.models.parts import Dropout
from lctx.models.text import Decoder
from lctx.positions import LayerPositions, Rope

SILENT = 'initializer_range', 'cache_implementation'
GELU = 'gelu_pytorch_tanh', 'gelu_new'


def model_for(options: Options, later: Callable | None = None) -> Decoder:
  """Of the first one; `later` reads what Gemma 2 or 3 adds."""
  options.expect('hidden_activation', *GELU)
  options.expect('hidden_act', *GELU, 'gelu')  # nobody computes this exactly
  options.expect('tie_word_embeddings', True)
  options.expect('use_bidirectional_attention', False)
  longest = options.take('max_position_embeddings')
  depth, heads, sizes = sizes_of(options)
  norm = RMSNorm(options.take('rms_norm_eps', 1e-6), zero_centred=True)
  more = later(options, depth, norm, longest) if later else {}
  position = more.get('position') or rotary.read(options, longest=longest)
  model = presets.gemma(
    depth,
    options.take('hidden_size'),
    heads,
    longest,
    window=more.get('window'),
    embed={'vocab': options.take('vocab_size'), **more.get('embed', {})},
    stack={
      'head_width': options.take('head_dim', 256),
      'ffn_width': options.take('intermediate_size'),
      'norm': norm,
      'norm_after': later is not None,
    },
    heads=sizes | biases(options) | more.get('heads', {}),
    position=position,
    dropout=Dropout(attention=options.take('attention_dropout', 0.0)),
  )
  options.check_all_read(SILENT)
  return model


def _second(options, depth, norm, longest) -> dict[str, Any]:
  """What Gemma 2 adds."""
  default = [KINDS[layer % 2 == 0] for layer in range(depth)]
  width = options.take('sliding_window_size', 4096)
  width = options.take('sliding_window', width, null=None)
  cap = options.take('attn_logit_softcapping', 50.0, null=None)
  scale = options.take('query_pre_attn_scalar', 256) ** -0.5
  out_cap = options.take('final_logit_softcapping', 30.0, null=None)
  return {
    'window': window_of(options, width, default),
    'heads': {'cap': cap, 'scale': scale},
    'embed': {'out_cap': out_cap},
  }


def _third(options, depth, norm, longest) -> dict[str, Any]:
  """What Gemma 3 adds: near layers turn by a base of their own."""
  period = options.take('sliding_window_pattern', 6)
  period = options.take('_sliding_window_pattern', period)
  default = [KINDS[(layer + 1) % period != 0] for layer in range(depth)]
  width = options.take('sliding_window', 4096)
  window = window_of(options, width, default)
  cap = options.take('attn_logit_softcapping', None)
  out_cap = options.take('final_logit_softcapping', None)
  scale = options.take('query_pre_attn_scalar', 256) ** -0.5
  far, near = (
    rotary.read(Options(spelt, options.where), longest=longest)
    for spelt in _of_kinds(options)
  )
  each = window if isinstance(window, tuple) else (window,)
  schemes = tuple(far if x is None else near for x in each)
  position = schemes[0] if len(each) == 1 else LayerPositions(schemes)
  return {
    'window': window,
    'heads': {'norm': norm, 'cap': cap, 'scale': scale},
    'embed': {'out_cap': out_cap},
    'position': position,
  }


def _of_kinds(options: Options) -> tuple[dict, dict]:
  """Rotary options of the layers that see all, and of those in a window."""
  both = options.take('rope_parameters', {})
  far = options.take('rope_scaling', both.get(KINDS[0]) or {})
  near = both.get(KINDS[1]) or {}
  theta = options.take('rope_theta', 1e6)
  local = options.take('rope_local_base_freq', 1e4)
  return (
    {'rope_parameters': {'rope_theta': theta, **far}},
    {'rope_parameters': {'rope_theta': local, **near}},
  )


def config_of(model: Decoder) -> dict[str, Any]:
  stack, sizes = model.stack, model.sizes()
  return {
    'model_type': 'gemma',
    'num_hidden_layers': stack.depth,
    'hidden_size': model.embed.width,
    'num_attention_heads': stack.num_heads,
    'num_key_value_heads': sizes.key_heads,
    'head_dim': sizes.head_width,
    'intermediate_size': stack.ffn_width_of(model.embed.width),
    'vocab_size': model.embed.vocab,
    'max_position_embeddings': model.memory.length,
    'hidden_act': GELU[0],
    'rms_norm_eps': stack.norm.epsilon,
    'tie_word_embeddings': True,
    'attention_bias': model.heads.bias,
    'rope_parameters': _rotary(model),
    'attention_dropout': model.dropout.attention,
  }


def _rotary(model: Decoder) -> dict[str, Any]:
  if model.heads.norm is None:  # as Gemma 3 alone has them
    return rotary.write(model.position)
  depth = model.stack.depth
  schemes = model.position.of_layers(depth)
  found = dict(zip(layer_types(model), schemes))
  return {kind: rotary.write(scheme) for kind, scheme in found.items()}


def config_of_later(model: Decoder, kind: str) -> dict[str, Any]:
  found = config_of(model)
  return found | {
    'model_type': kind,
    'hidden_activation': found.pop('hidden_act'),
    'layer_types': layer_types(model),
    'sliding_window': width_of(model) or 4096,
    'attn_logit_softcapping': model.heads.cap,
    'final_logit_softcapping': model.embed.out_cap,
    'query_pre_attn_scalar': round(model.sizes().scale ** -2),  # a whole number
  }


PARTS = {'position': Rope, 'stack.norm': RMSNorm, 'stack.ffn': Geglu}
BY_KIND = {**PARTS, 'position': Rope | LayerPositions}
FAMILIES = {
  'GemmaForCausalLM': Family(
    model_for, config_of, entries, tied, body=BODY, parts=PARTS
  ),
  'Gemma2ForCausalLM': Family(
    functools.partial(model_for, later=_second),
    functools.partial(config_of_later, kind='gemma2'),
    entries,
    tied,
    body=BODY,
    parts=PARTS,
  ),
  'Gemma3ForCausalLM': Family(
    functools.partial(model_for, later=_third),
    functools.partial(config_of_later, kind='gemma3_text'),
    entries,
    tied,
    body=BODY,
    parts=BY_KIND,
  ),
}
