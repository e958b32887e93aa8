"""GPT-NeoX and Pythia as Hugging Face names them: `GPTNeoXForCausalLM`."""

from lctx import presets
from lctx.interop import rotary
from lctx.interop.family import Family, dropouts
from lctx.interop.layers import array, megatron, norm
from lctx.interop.options import Options
from lctx.interop.tables import Entry, of_layers
from lctx.layers.ffn import Gelu
from lctx.layers.norm import LayerNorm
from lctx.models.parts import Dropout
from lctx.models.text import Decoder
from lctx.positions import Rope

BODY = 'gpt_neox.'
GELU = {
  'gelu': True,
  'gelu_new': False,
  'gelu_pytorch_tanh': False,
  'gelu_fast': False,
}
SILENT = (  # the last two are of the first file, under names that nobody reads
  *('initializer_range', 'classifier_dropout'),
  *('hidden_dropout_prob', 'attention_probs_dropout_prob'),
)


def model_for(options: Options) -> Decoder:
  options.expect('attention_bias', True)
  options.expect('is_decoder', False)  # it is one all the same
  longest = options.take('max_position_embeddings')
  share = options.take('rotary_pct', 0.25)
  base = options.take('rotary_emb_base', 10_000)
  position = rotary.read(options, longest=longest, base=base, share=share)
  hidden, attention = dropouts(
    options, ('hidden_dropout',), 'attention_dropout'
  )
  model = presets.gpt_neox(
    options.take('num_hidden_layers'),
    options.take('hidden_size'),
    options.take('num_attention_heads'),
    longest,
    embed={
      'vocab': options.take('vocab_size'),
      'tie_weights': options.take('tie_word_embeddings', False),
    },
    stack={
      'ffn_width': options.take('intermediate_size'),
      'parallel': options.take('use_parallel_residual', True),
      'norm': LayerNorm(options.take('layer_norm_eps', 1e-5)),
      'ffn': Gelu(exact=GELU[options.expect('hidden_act', *GELU)]),
    },
    position=position,
    dropout=Dropout(hidden, attention),
  )
  options.check_all_read(SILENT)
  return model


def config_of(model: Decoder) -> dict:
  stack = model.stack
  exact = {True: 'gelu', False: 'gelu_new'}
  return {
    'model_type': 'gpt_neox',
    'num_hidden_layers': stack.depth,
    'hidden_size': model.embed.width,
    'num_attention_heads': stack.num_heads,
    'max_position_embeddings': model.memory.length,
    'vocab_size': model.embed.vocab,
    'intermediate_size': stack.ffn_width_of(model.embed.width),
    'use_parallel_residual': stack.parallel,
    'layer_norm_eps': stack.norm.epsilon,
    'hidden_act': exact[stack.ffn.exact],
    'tie_word_embeddings': model.embed.tie_weights,
    'rope_parameters': rotary.write(model.position),
    'hidden_dropout': model.dropout.hidden,
    'attention_dropout': model.dropout.attention,
  }


def entries(model: Decoder) -> list[Entry]:
  width, vocab = model.embed.width, model.embed.vocab
  found = [
    array(f'{BODY}embed_in.weight', ('vocabulary', 'table_0'), vocab, width),
    *norm(f'{BODY}final_layer_norm', 'final_norm', width, bias=True),
  ]
  if not model.embed.tie_weights:
    path = 'vocabulary', 'out_table_0'
    found.append(array('embed_out.weight', path, vocab, width))
  of_one = megatron(model, 'attention')
  return found + of_layers(model, of_one, f'{BODY}layers.{{}}.')


def tied(model: Decoder) -> dict[str, str]:
  if not model.embed.tie_weights:
    return {}
  return {'embed_out.weight': f'{BODY}embed_in.weight'}


BUFFERS = '.attention.bias', '.attention.masked_bias', '.rotary_emb.inv_freq'
FAMILIES = {
  'GPTNeoXForCausalLM': Family(
    model_for,
    config_of,
    entries,
    tied,
    body=BODY,
    parts={'position': Rope, 'stack.norm': LayerNorm, 'stack.ffn': Gelu},
    ignored=lambda name: name.endswith(BUFFERS),
  )
}
