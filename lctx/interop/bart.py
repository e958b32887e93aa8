"""BART and LED as Hugging Face names them."""

import functools
from typing import Any, NamedTuple

from lctx import presets
from lctx.interop.activations import activation, name_of
from lctx.interop.family import Family, dropouts
from lctx.interop.heads import BODY, SPAN, of_end_mark, with_head
from lctx.interop.inputs import pair
from lctx.interop.layers import QKV, array, attention, into_heads, linear, norm
from lctx.interop.options import Options
from lctx.interop.tables import Entry, of_layers
from lctx.interop.windows import global_attention, widths_of
from lctx.layers.norm import LayerNorm
from lctx.memory import GlobalAttention, Memory
from lctx.models.body import Body
from lctx.models.encoder_decoder import SIDES, EncoderDecoder
from lctx.models.parts import Dropout
from lctx.patterns import LayerPatterns, Window
from lctx.positions import Learned

SILENT = (  # of training, and of how it writes
  *('init_std', 'encoder_layerdrop', 'decoder_layerdrop', 'num_hidden_layers'),
  *('decoder_start_token_id', 'forced_eos_token_id', 'forced_bos_token_id'),
  *('is_encoder_decoder', 'num_beams', 'max_length', 'min_length'),
  *('early_stopping', 'length_penalty', 'no_repeat_ngram_size', 'prefix'),
  *('add_bias_logits', 'is_decoder', 'output_past', 'classif_dropout'),
  *('activation_dropout', 'classifier_dropout'),
)


class Names(NamedTuple):
  """What differs from one of these families to the next."""

  kind: str  # model_type
  body: str
  first: int  # positions that are no token's


BART, LED = Names('bart', 'model.', 2), Names('led', 'led.', 0)


def model_for(options: Options, names: Names) -> EncoderDecoder:
  options.expect('tie_word_embeddings', True)
  options.expect('normalize_before', False)
  options.expect('normalize_embedding', True)
  options.expect('add_final_layer_norm', False)
  options.expect('static_position_embeddings', False)
  scaled = options.take('scale_embedding', False)
  hidden, attention = dropouts(options, ('dropout',), 'attention_dropout')
  bent = activation(options, 'activation_function', 'gelu')
  lengths = _lengths(options, names)
  sides = {
    side: {
      'stack': {
        'depth': options.take(f'{side}_layers', 12),
        'num_heads': options.take(f'{side}_attention_heads', 16),
        'ffn_width': options.take(f'{side}_ffn_dim', 4096),
        'ffn': bent,
      },
      'position': Learned(length + names.first, names.first),
    }
    for side, length in zip(SIDES, lengths)
  }
  if names is LED:
    sides['encoder'] |= global_attention(options)
  model = presets.bart(
    1,
    options.take('d_model', 1024),
    1,
    lengths[0],
    embed={'vocab': options.take('vocab_size'), 'scaled': scaled},
    dropout=Dropout(hidden, attention),
    **sides,
  )
  options.check_all_read(SILENT)
  return model


def _lengths(options, names):
  if names is BART:
    return (options.take('max_position_embeddings', 1024),) * 2
  return tuple(
    options.take(f'max_{side}_position_embeddings', usual)
    for side, usual in zip(SIDES, (16_384, 1024))
  )


def config_of(model: EncoderDecoder, names: Names) -> dict[str, Any]:
  found = {
    'model_type': names.kind,
    'd_model': model.embed.width,
    'vocab_size': model.embed.vocab,
    'scale_embedding': model.embed.scaled,
    'activation_function': name_of(model.encoder.stack.ffn),
    'dropout': model.dropout.hidden,
    'attention_dropout': model.dropout.attention,
    'tie_word_embeddings': True,
    'is_encoder_decoder': True,
    'decoder_start_token_id': 2,
  }
  for name in SIDES:
    side = getattr(model, name)
    stack, length = side.stack, side.position.length - names.first
    found |= {
      f'{name}_layers': stack.depth,
      f'{name}_attention_heads': stack.num_heads,
      f'{name}_ffn_dim': stack.ffn_width_of(model.embed.width),
    }
    if names is LED:
      found[f'max_{name}_position_embeddings'] = length
    else:
      found['max_position_embeddings'] = length
  if names is LED:
    del found['scale_embedding']
    side = model.encoder
    found['attention_window'] = widths_of(side.pattern, side.stack.depth)
  return found


def entries(model: EncoderDecoder, names: Names) -> list[Entry]:
  embed = model.embed
  shape = embed.vocab, embed.width
  path = 'vocabulary', 'table_0'
  found = [array(f'{names.body}shared.weight', path, *shape)]
  for side, body in zip(SIDES, (model.source, model.target)):
    found += _side(body, side, names)
  bias = Entry(
    'final_logits_bias',
    ('vocabulary', 'out_bias_0'),
    (1, embed.vocab),
    lambda w: w[0],
    lambda w: w[None],
  )
  return [*found, bias]


def _side(body: Body, side: str, names: Names) -> list[Entry]:
  width, at = body.embed.width, f'{names.body}{side}.'
  path = side, 'placed', 'table'
  name = f'{at}embed_positions.weight'
  found = [
    array(name, path, body.position.length, width),
    *norm(f'{at}layernorm_embedding', (side, 'embed_norm'), width, bias=True),
  ]
  prefix = f'{at}layers.{{}}.'
  return found + of_layers(body, _layer(body), prefix, root=(side,))


def _layer(body):
  width, hidden = body.embed.width, body.stack.ffn_width_of(body.embed.width)
  if isinstance(body.memory, GlobalAttention):
    yield from _with_global(body)
  else:
    yield from _attention(body, 'self_attn', 'attention')
  yield from norm('self_attn_layer_norm', 'norm_0', width, bias=True)
  if body.cross:
    yield from _attention(body, 'encoder_attn', 'cross')
    yield from norm('encoder_attn_layer_norm', 'norm_2', width, bias=True)
  yield from linear('fc1', 'in', (width, hidden), bias=True)
  yield from linear('fc2', 'out', (hidden, width), bias=True)
  yield from norm('final_layer_norm', 'norm_1', width, bias=True)


def _attention(body, name, leaf):
  names = [f'{name}.{x}_proj' for x in ('q', 'k', 'v', 'out')]
  return attention(body, names, leaf, bias=True)


def _with_global(body):
  sizes, name = body.sizes(), 'self_attn.longformer_self_attn'
  shape = sizes.num_heads, sizes.head_width
  names = [f'{name}.{own}' for own in QKV]
  yield from attention(
    body, [*names, 'self_attn.output'], 'attention', bias=True
  )
  for own in QKV:
    given = f'{name}.{own}_global', f'memory_{own}', sizes.width, shape
    yield from into_heads(*given, bias=True, of=())


def tied(model: EncoderDecoder, names: Names) -> dict[str, str]:
  table, body = f'{names.body}shared.weight', names.body
  found = {f'{body}{side}.embed_tokens.weight': table for side in SIDES}
  return {**found, 'lm_head.weight': table}


def _unread(name: str) -> bool:
  return name.endswith(('embed_positions.num_embeddings', '.version'))


def _parts(names: Names) -> dict[str, type]:
  found = {
    f'{side}.{path}': kind
    for side in SIDES
    for path, kind in (
      ('position', Learned),
      ('stack.norm', LayerNorm),
      ('memory', Memory),
    )
  }
  if names is LED:
    found['encoder.memory'] = GlobalAttention
    found['encoder.pattern'] = Window | LayerPatterns
  return found


def _family(names: Names) -> Family:
  return Family(
    functools.partial(model_for, names=names),
    functools.partial(config_of, names=names),
    functools.partial(entries, names=names),
    functools.partial(tied, names=names),
    body=names.body,
    parts=_parts(names),
    ignored=_unread,
    model=EncoderDecoder,
    inputs=pair,
  )


_BART, _LED = _family(BART), _family(LED)
FAMILIES = {
  'BartModel': with_head(_BART, BODY, ''),
  'BartForConditionalGeneration': _BART,
  'BartForSequenceClassification': with_head(_BART, of_end_mark(3)),
  'BartForQuestionAnswering': with_head(_BART, SPAN),
  'LEDModel': with_head(_LED, BODY, ''),
  'LEDForConditionalGeneration': _LED,
  'LEDForQuestionAnswering': with_head(_LED, SPAN),
}
