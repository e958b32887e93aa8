"""Gemma and Gemma 2 as Hugging Face names them; the arrays are Llama's."""

import functools
from typing import Any

from lctx import presets
from lctx.interop import rotary
from lctx.interop.family import Family
from lctx.interop.llama import BODY, entries, tied, window_of
from lctx.interop.options import Options
from lctx.models.decoder import Decoder
from lctx.models.parts import Dropout
from lctx.patterns import Window

KINDS = 'sliding_attention', 'full_attention'  # of Gemma 2, in turn
SILENT = 'initializer_range', 'use_bidirectional_attention'
GELU = 'gelu_pytorch_tanh', 'gelu_new'


def model_for(options: Options, second: bool) -> Decoder:
  if second:
    options.expect('hidden_activation', *GELU)
  else:  # files of the first one name another function, which nobody computes
    options.take('hidden_activation', None)
    options.expect('hidden_act', *GELU, 'gelu')
  options.expect('tie_word_embeddings', True)
  longest = options.take('max_position_embeddings')
  heads = options.take('num_attention_heads')
  depth = options.take('num_hidden_layers')
  model = presets.gemma(
    depth,
    options.take('hidden_size'),
    heads,
    longest,
    vocab=options.take('vocab_size'),
    key_heads=options.take('num_key_value_heads', heads),
    head_width=options.take('head_dim', 256),
    ffn_width=options.take('intermediate_size'),
    bias=options.take('attention_bias', False),
    epsilon=options.take('rms_norm_eps', 1e-6),
    position=rotary.read(options, longest=longest),
    dropout=Dropout(attention=options.take('attention_dropout', 0.0)),
    **(_second(options, depth) if second else {}),
  )
  options.check_all_read(SILENT)
  return model


def _second(options: Options, depth: int) -> dict[str, Any]:
  """What Gemma 2 adds."""
  default = [KINDS[layer % 2] for layer in range(depth)]
  return {
    'norm_after': True,
    'window': window_of(options, options.take('sliding_window', 4096), default),
    'cap': options.take('attn_logit_softcapping', None),
    'out_cap': options.take('final_logit_softcapping', None),
    'scale': options.take('query_pre_attn_scalar', 256) ** -0.5,
  }


def config_of(model: Decoder, second: bool) -> dict[str, Any]:
  stack, sizes = model.stack, model.sizes()
  found = {
    'model_type': 'gemma2' if second else 'gemma',
    'num_hidden_layers': stack.depth,
    'hidden_size': model.embed.width,
    'num_attention_heads': stack.num_heads,
    'num_key_value_heads': sizes.key_heads,
    'head_dim': sizes.head_width,
    'intermediate_size': stack.ffn_width_of(model.embed.width),
    'vocab_size': model.embed.vocab,
    'max_position_embeddings': model.memory.length,
    'hidden_activation' if second else 'hidden_act': GELU[0],
    'rms_norm_eps': stack.norm.epsilon,
    'tie_word_embeddings': True,
    'attention_bias': model.heads.bias,
    'rope_parameters': rotary.write(model.position),
    'attention_dropout': model.dropout.attention,
  }
  if second:
    windowed = isinstance(model.pattern, Window)
    found |= {
      'layer_types': [KINDS[not windowed]] * stack.depth,
      'sliding_window': model.pattern.before + 1 if windowed else 4096,
      'attn_logit_softcapping': model.heads.cap,
      'final_logit_softcapping': model.embed.out_cap,
      'query_pre_attn_scalar': round(sizes.scale**-2),  # it has to be whole
    }
  return found


def _family(second: bool) -> Family:
  return Family(
    functools.partial(model_for, second=second),
    functools.partial(config_of, second=second),
    entries,
    tied,
    body=BODY,
  )


FAMILIES = {
  'GemmaForCausalLM': _family(False),
  'Gemma2ForCausalLM': _family(True),
}
