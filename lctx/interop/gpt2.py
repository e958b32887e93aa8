"""GPT-2 as Hugging Face names it: `GPT2LMHeadModel`.

Its Conv1D holds [in, out], as ours.
"""

from lctx import presets
from lctx.interop.family import Family, dropouts
from lctx.interop.layers import (
  array,
  linear,
  norm,
  out_of_heads,
  side_by_side,
)
from lctx.interop.options import Options
from lctx.interop.tables import Entry, of_layers
from lctx.layers.ffn import Gelu
from lctx.layers.norm import LayerNorm
from lctx.models.parts import Dropout
from lctx.models.text import Decoder
from lctx.positions import Learned

BODY = 'transformer.'
GELU = {'gelu_new': False, 'gelu_pytorch_tanh': False, 'gelu': True}
SILENT = (  # of training that is over, and of heads that are not there
  *('initializer_range', 'n_ctx', 'n_special', 'summary_activation'),
  *('predict_special_tokens', 'output_past', '_num_labels'),
  *('summary_first_dropout', 'summary_proj_to_labels', 'summary_type'),
  *('summary_use_proj', 'reorder_and_upcast_attn'),
)


def model_for(options: Options) -> Decoder:
  options.expect('scale_attn_weights', True)
  options.expect('scale_attn_by_inverse_layer_idx', False)
  options.expect('add_cross_attention', False)
  options.expect('tie_word_embeddings', True)
  hidden, attention = dropouts(
    options, ('embd_pdrop', 'resid_pdrop'), 'attn_pdrop'
  )
  model = presets.gpt2(
    options.take('n_layer'),
    options.take('n_embd'),
    options.take('n_head'),
    options.take('n_positions'),
    embed={'vocab': options.take('vocab_size')},
    stack={
      'ffn_width': options.take('n_inner', None),
      'norm': LayerNorm(options.take('layer_norm_epsilon', 1e-5)),
      'ffn': Gelu(exact=GELU[options.expect('activation_function', *GELU)]),
    },
    dropout=Dropout(hidden, attention),
  )
  options.check_all_read(SILENT)
  return model


def config_of(model: Decoder) -> dict:
  stack = model.stack
  exact = {exact: name for name, exact in reversed(GELU.items())}
  return {
    'model_type': 'gpt2',
    'n_layer': stack.depth,
    'n_embd': model.embed.width,
    'n_head': stack.num_heads,
    'n_positions': model.position.length,
    'n_inner': stack.ffn_width,
    'vocab_size': model.embed.vocab,
    'layer_norm_epsilon': stack.norm.epsilon,
    'activation_function': exact[stack.ffn.exact],
    'embd_pdrop': model.dropout.hidden,
    'resid_pdrop': model.dropout.hidden,
    'attn_pdrop': model.dropout.attention,
    'tie_word_embeddings': True,
  }


def entries(model: Decoder) -> list[Entry]:
  width, position, embed = model.embed.width, model.position, model.embed
  found = [
    array(f'{BODY}wte.weight', ('vocabulary', 'table_0'), embed.vocab, width),
    array(f'{BODY}wpe.weight', ('placed', 'table'), position.length, width),
    *norm(f'{BODY}ln_f', 'final_norm', width, bias=True),
  ]
  sizes, ffn = model.sizes(), model.stack.ffn_width_of(width)
  heads = sizes.num_heads, sizes.head_width
  of_one = [
    *norm('ln_1', 'norm_0', width, bias=True),
    *side_by_side('attn.c_attn', width, heads),
    *out_of_heads('attn.c_proj', width, heads, bias=True, conv=True),
    *norm('ln_2', 'norm_1', width, bias=True),
    *linear('mlp.c_fc', 'in', (width, ffn), bias=True, conv=True),
    *linear('mlp.c_proj', 'out', (ffn, width), bias=True, conv=True),
  ]
  return found + of_layers(model, of_one, f'{BODY}h.{{}}.')


FAMILIES = {
  'GPT2LMHeadModel': Family(
    model_for,
    config_of,
    entries,
    tied=lambda model: {'lm_head.weight': f'{BODY}wte.weight'},
    body=BODY,
    parts={'position': Learned, 'stack.norm': LayerNorm, 'stack.ffn': Gelu},
    ignored=lambda name: name.endswith(('.attn.bias', '.attn.masked_bias')),
  )
}
