"""Bloom as Hugging Face names it: `BloomForCausalLM`."""

from lctx import presets
from lctx.interop.family import Family, dropouts
from lctx.interop.layers import array, megatron, norm
from lctx.interop.options import Options
from lctx.interop.tables import Entry, of_layers
from lctx.layers.ffn import Gelu
from lctx.layers.norm import LayerNorm
from lctx.models.parts import Dropout
from lctx.models.text import Decoder
from lctx.positions import Alibi

BODY, TRAINED = 'transformer.', 2048  # tokens, as published
SILENT = (  # of how it is computed, and of training that is over
  *('initializer_range', 'slow_but_exact', 'n_inner', 'offset_alibi'),
  *('skip_bias_add', 'bias_dropout_fusion', 'masked_softmax_fusion'),
  *('attention_softmax_in_fp32', 'unk_token_id'),
)


def model_for(options: Options) -> Decoder:
  options.expect('apply_residual_connection_post_layernorm', False)
  options.expect('skip_bias_add_qkv', False)
  width = options.take('n_embed', 0) or options.take('hidden_size')
  heads = options.take('num_attention_heads', 0) or options.take('n_head')
  hidden, attention = dropouts(
    options, ('hidden_dropout',), 'attention_dropout'
  )
  norm = LayerNorm(options.take('layer_norm_epsilon', 1e-5))
  model = presets.bloom(
    options.take('n_layer'),
    width,
    heads,
    options.take('seq_length', TRAINED),
    embed={
      'vocab': options.take('vocab_size'),
      'tie_weights': options.take('tie_word_embeddings', True),
      'norm': norm,
    },
    stack={'norm': norm},
    dropout=Dropout(hidden, attention),
  )
  options.check_all_read(SILENT)
  return model


def config_of(model: Decoder) -> dict:
  return {
    'model_type': 'bloom',
    'n_layer': model.stack.depth,
    'hidden_size': model.embed.width,
    'n_head': model.stack.num_heads,
    'seq_length': model.memory.length,
    'vocab_size': model.embed.vocab,
    'layer_norm_epsilon': model.stack.norm.epsilon,
    'tie_word_embeddings': model.embed.tie_weights,
    'hidden_dropout': model.dropout.hidden,
    'attention_dropout': model.dropout.attention,
  }


def entries(model: Decoder) -> list[Entry]:
  width, vocab = model.embed.width, model.embed.vocab
  table = f'{BODY}word_embeddings'
  found = [
    array(f'{table}.weight', ('vocabulary', 'table_0'), vocab, width),
    *norm(f'{table}_layernorm', 'embed_norm', width, bias=True),
    *norm(f'{BODY}ln_f', 'final_norm', width, bias=True),
  ]
  if not model.embed.tie_weights:
    path = 'vocabulary', 'out_table_0'
    found.append(array('lm_head.weight', path, vocab, width))
  of_one = megatron(model, 'self_attention')
  return found + of_layers(model, of_one, f'{BODY}h.{{}}.')


def tied(model: Decoder) -> dict[str, str]:
  if not model.embed.tie_weights:
    return {}
  return {'lm_head.weight': f'{BODY}word_embeddings.weight'}


FAMILIES = {
  'BloomForCausalLM': Family(
    model_for,
    config_of,
    entries,
    tied,
    body=BODY,
    parts={'position': Alibi, 'stack.norm': LayerNorm, 'stack.ffn': Gelu},
  )
}
