"""Gemma and Gemma 2 as Hugging Face names them; the arrays are Llama's."""

import functools
from collections.abc import Callable
from typing import Any

from lctx import presets
from lctx.interop import rotary
from lctx.interop.family import Family
from lctx.interop.llama import (
  BODY,
  biases,
  entries,
  sizes_of,
  tied,
  window_of,
)
from lctx.interop.options import Options
from lctx.layers.ffn import Geglu
from lctx.layers.norm import RMSNorm
from lctx.models.parts import Dropout
from lctx.models.reader import Decoder
from lctx.patterns import Window
from lctx.positions import Rope

KINDS = 'sliding_attention', 'full_attention'  # of Gemma 2, in turn
SILENT = 'initializer_range', 'cache_implementation'
GELU = 'gelu_pytorch_tanh', 'gelu_new'


def model_for(options: Options, second: Callable | None = None) -> Decoder:
  """Of the first one; `second` reads what Gemma 2 adds."""
  options.expect('hidden_activation', *GELU)
  options.expect('hidden_act', *GELU, 'gelu')  # nobody computes this exactly
  options.expect('tie_word_embeddings', True)
  options.expect('use_bidirectional_attention', False)
  longest = options.take('max_position_embeddings')
  depth, heads, sizes = sizes_of(options)
  more = second(options, depth) if second else {}
  epsilon = options.take('rms_norm_eps', 1e-6)
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
      'norm': RMSNorm(epsilon, zero_centred=True),
      'norm_after': second is not None,
    },
    heads=sizes | biases(options) | more.get('heads', {}),
    position=rotary.read(options, longest=longest),
    dropout=Dropout(attention=options.take('attention_dropout', 0.0)),
  )
  options.check_all_read(SILENT)
  return model


def _second(options: Options, depth: int) -> dict[str, Any]:
  """What Gemma 2 adds."""
  default = [KINDS[layer % 2] for layer in range(depth)]
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
    'rope_parameters': rotary.write(model.position),
    'attention_dropout': model.dropout.attention,
  }


def config_of_second(model: Decoder) -> dict[str, Any]:
  windowed, found = isinstance(model.pattern, Window), config_of(model)
  return found | {
    'model_type': 'gemma2',
    'hidden_activation': found.pop('hidden_act'),
    'layer_types': [KINDS[not windowed]] * model.stack.depth,
    'sliding_window': model.pattern.before + 1 if windowed else 4096,
    'attn_logit_softcapping': model.heads.cap,
    'final_logit_softcapping': model.embed.out_cap,
    'query_pre_attn_scalar': round(model.sizes().scale ** -2),  # a whole number
  }


PARTS = {'position': Rope, 'norm': RMSNorm, 'ffn': Geglu}
FAMILIES = {
  'GemmaForCausalLM': Family(
    model_for, config_of, entries, tied, body=BODY, parts=PARTS
  ),
  'Gemma2ForCausalLM': Family(
    functools.partial(model_for, second=_second),
    config_of_second,
    entries,
    tied,
    body=BODY,
    parts=PARTS,
  ),
}
