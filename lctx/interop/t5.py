"""T5 and LongT5 as Hugging Face names them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lctx import presets
from lctx.interop.family import Family
from lctx.interop.heads import BODY, SPAN, TOKENS, of_end_mark, with_head
from lctx.interop.inputs import inputs, pair
from lctx.interop.layers import array, attention, linear, norm
from lctx.interop.options import Options
from lctx.interop.tables import Arrays, Entry, of_layers
from lctx.layers.ffn import GatedFeedForward, Geglu, Gelu, Relu, Swiglu
from lctx.layers.norm import RMSNorm
from lctx.memory import Memory, TransientGlobal
from lctx.models.body import Body
from lctx.models.encoder_decoder import SIDES, EncoderDecoder
from lctx.models.parts import Dropout
from lctx.models.tasks import States
from lctx.models.text import Encoder
from lctx.patterns import Causal, Everything, Window
from lctx.positions import T5Bias

FFNS = {
  'relu': Relu(bias=False),
  'gelu': Gelu(bias=False),
  'gelu_new': Gelu(bias=False, exact=False),
  'gated-gelu': Geglu(exact=False),
  'gated-gelu_new': Geglu(exact=False),
  'gated-silu': Swiglu(),
}
TABLE = ('vocabulary',)
EMBEDS = {side: f'{side}.embed_tokens.weight' for side in SIDES}
KINDS = 'local', 'transient-global'
NAMES = {  # of attention in a layer of the encoder
  None: 'SelfAttention',
  'local': 'LocalSelfAttention',
  'transient-global': 'TransientGlobalSelfAttention',
}
SILENT = (
  *('initializer_factor', 'is_encoder_decoder', 'is_gated_act', 'n_positions'),
  *('decoder_start_token_id', 'dense_act_fn', 'output_past'),
  *('classifier_dropout', 'is_decoder'),
)


def model_for(
  options: Options, encoder: Callable, alone: bool = False
) -> EncoderDecoder | Encoder:
  """`encoder` reads what is its own; `alone`: there is no decoder."""
  tied = options.take('tie_word_embeddings', True)
  scaled = options.take('scale_decoder_outputs', tied)
  if options.arrays:
    tied = 'lm_head.weight' not in options.arrays  # the file decides
  width, depth = options.take('d_model'), options.take('num_layers')
  rate = options.take('dropout_rate', 0.1)
  position = T5Bias(
    options.take('relative_attention_num_buckets', 32),
    options.take('relative_attention_max_distance', 128),
  )
  both_ways = dataclasses.replace(position, both_ways=True)
  stack = {
    'head_width': options.take('d_kv'),
    'ffn_width': options.take('d_ff'),
    'norm': RMSNorm(options.take('layer_norm_epsilon', 1e-6)),
  }
  deep = options.take('num_decoder_layers', depth)
  own = {'stack': stack, 'position': both_ways}
  model = presets.t5(
    depth,
    width,
    options.take('num_heads'),
    ffn=FFNS[options.expect('feed_forward_proj', 'relu', *FFNS)],
    embed={
      'vocab': options.take('vocab_size'),
      'tie_weights': tied or alone,
      'out_scale': width**-0.5 if scaled and not alone else 1.0,
    },
    encoder=own | encoder(options, both_ways),
    decoder={'stack': stack | {'depth': deep}, 'position': position},
    dropout=Dropout(rate, rate),
    shared=_shares(options.arrays),
  )
  options.check_all_read(SILENT)
  return model.source.clone(task=States()) if alone else model


def _shares(arrays: Arrays) -> bool:
  """Whether both sides read by one table. Some files hold it three times."""
  table = arrays.get('shared.weight')
  return all(
    np.array_equal(arrays.get(name, table), table) for name in EMBEDS.values()
  )


def _of_t5(options, position):
  return {}


def _of_longt5(options, position):
  radius = options.take('local_radius', 127)
  block = options.take('global_block_size', 16)
  found = {'pattern': Window(radius, radius)}
  if options.expect('encoder_attention_type', *KINDS) == KINDS[1]:
    found['memory'] = TransientGlobal(block, position=position)
  return found


def config_of(model: EncoderDecoder | Encoder, kind: str) -> dict[str, Any]:
  alone = isinstance(model, Encoder)
  encoder, decoder = (model, model) if alone else (model.encoder, model.decoder)
  stack, embed = encoder.stack, model.embed
  ffns = {ffn: name for name, ffn in reversed(FFNS.items())}
  if stack.ffn not in ffns:
    raise ValueError(
      f'model.encoder.stack.ffn = {stack.ffn} has no name in a {kind} file, '
      f'which knows {", ".join(map(str, ffns))}. Use one of those, or keep the '
      'lctx checkpoint.'
    )
  found = {
    'model_type': kind,
    'd_model': embed.width,
    'd_kv': stack.head_width_of(embed.width),
    'd_ff': stack.ffn_width_of(embed.width),
    'num_layers': stack.depth,
    'num_decoder_layers': decoder.stack.depth,
    'num_heads': stack.num_heads,
    'vocab_size': embed.vocab,
    'relative_attention_num_buckets': encoder.position.buckets,
    'relative_attention_max_distance': encoder.position.farthest,
    'dropout_rate': model.dropout.hidden,
    'layer_norm_epsilon': stack.norm.epsilon,
    'feed_forward_proj': ffns[stack.ffn],
    # The file says what is tied; of these the first is for old readers.
    'tie_word_embeddings': alone or embed.out_scale != 1,
    'scale_decoder_outputs': alone or embed.out_scale != 1,
    'is_encoder_decoder': not alone,
    'decoder_start_token_id': 0,
  }
  if kind == 'longt5':
    far = isinstance(encoder.memory, TransientGlobal)
    found['encoder_attention_type'] = KINDS[far]
    found['local_radius'] = encoder.pattern.before
    found['global_block_size'] = encoder.memory.block if far else 16
  return found


def entries(model: EncoderDecoder | Encoder) -> list[Entry]:
  embed = model.embed
  shape = embed.vocab, embed.width
  found, at = [array('shared.weight', (*TABLE, 'table_0'), *shape)], TABLE
  if isinstance(model, Encoder):
    return found + _side(model, 'encoder', ())
  if not model.shared:
    at = 'decoder', *TABLE
    found = [
      array(name, (side, *TABLE, 'table_0'), *shape)
      for side, name in EMBEDS.items()
    ]
  if not embed.tie_weights:
    found.append(array('lm_head.weight', (*at, 'out_table_0'), *shape))
  found += _side(model.source, 'encoder', ('encoder',))
  return found + _side(model.target, 'decoder', ('decoder',))


def _side(body: Body, side: str, root: tuple[str, ...]) -> list[Entry]:
  width, heads = body.embed.width, body.stack.num_heads
  far = isinstance(body.memory, TransientGlobal)
  longt5 = far or isinstance(body.pattern, Window)
  own = NAMES[KINDS[far] if longt5 else None]
  first = f'{side}.block.0.layer.0.{own}.'
  shape = body.position.buckets, heads
  path = *root, 'once', 'relative_bias'
  found = [
    array(f'{first}relative_attention_bias.weight', path, *shape),
    *norm(f'{side}.final_layer_norm', (*root, 'final_norm'), width, bias=False),
  ]
  if far:
    path = *root, 'memory_once_0', 'relative_bias'
    name = f'{first}global_relative_attention_bias.weight'
    found.append(array(name, path, *shape))
  of_one = _layer(body, own, far)
  return found + of_layers(body, of_one, f'{side}.block.{{}}.layer.', root=root)


def _layer(body, own, far):
  width = body.embed.width
  yield from _attention(body, f'0.{own}', 'attention')
  yield from norm('0.layer_norm', 'norm_0', width, bias=False)
  if far:
    name = f'0.{own}.global_input_layer_norm.weight'
    yield array(name, ('memory_scale',), width)
  if body.cross:
    yield from _attention(body, '1.EncDecAttention', 'cross')
    yield from norm('1.layer_norm', 'norm_2', width, bias=False)
  last, hidden = 1 + body.cross, body.stack.ffn_width_of(width)
  yield from norm(f'{last}.layer_norm', 'norm_1', width, bias=False)
  names = {'wi': 'in', 'wo': 'out'}
  if isinstance(body.stack.ffn, GatedFeedForward):
    names = {'wi_0': 'gate', 'wi_1': 'in', 'wo': 'out'}
  for name, leaf in names.items():
    shape = (hidden, width) if leaf == 'out' else (width, hidden)
    yield from linear(f'{last}.DenseReluDense.{name}', leaf, shape, bias=False)


def _attention(body, name, leaf):
  names = [f'{name}.{x}' for x in 'qkvo']
  return attention(body, names, leaf, bias=False)


def tied(model: EncoderDecoder | Encoder) -> dict[str, str]:
  if isinstance(model, Encoder):
    return {EMBEDS['encoder']: 'shared.weight'}
  if not model.shared:
    return {}
  return dict.fromkeys(EMBEDS.values(), 'shared.weight')


def _unused(model: EncoderDecoder | Encoder) -> dict[str, tuple[int, int]]:
  if isinstance(model, Encoder) or model.shared:
    return {}
  return {'shared.weight': (model.embed.vocab, model.embed.width)}


def _unread(name: str) -> bool:
  """Cross-attention has no positions, but old files do."""
  return name.endswith('EncDecAttention.relative_attention_bias.weight')


def _parts(encoder: Callable, alone: bool) -> dict[str, type]:
  seen, more = (Everything, Memory)
  if encoder is _of_longt5:
    seen, more = (Window, Memory | TransientGlobal)
  found = {
    'position': T5Bias,
    'stack.norm': RMSNorm,
    'pattern': seen,
    'memory': more,
  }
  if alone:
    return found
  other = {**found, 'pattern': Causal, 'memory': Memory}
  return {
    **{f'encoder.{path}': kind for path, kind in found.items()},
    **{f'decoder.{path}': kind for path, kind in other.items()},
  }


def _family(kind: str, encoder: Callable, alone: bool = False) -> Family:
  return Family(
    functools.partial(model_for, encoder=encoder, alone=alone),
    functools.partial(config_of, kind=kind),
    entries,
    tied,
    body='',
    parts=_parts(encoder, alone),
    ignored=_unread,
    inputs=inputs if alone else pair,
    unused=_unused,
    model=Encoder if alone else EncoderDecoder,
  )


_T5, _LONGT5 = _family('t5', _of_t5), _family('longt5', _of_longt5)
_ENCODER = _family('t5', _of_t5, alone=True)
INNER = 'transformer.'  # what classifiers call their T5
FAMILIES = {
  'T5Model': with_head(_T5, BODY),
  'T5ForConditionalGeneration': _T5,
  'T5ForSequenceClassification': with_head(_T5, of_end_mark(2), INNER),
  'T5ForQuestionAnswering': with_head(_T5, SPAN),
  'T5EncoderModel': _ENCODER,
  'T5ForTokenClassification': with_head(_ENCODER, TOKENS, INNER),
  'LongT5Model': with_head(_LONGT5, BODY),
  'LongT5ForConditionalGeneration': _LONGT5,
  'LongT5EncoderModel': _family('longt5', _of_longt5, alone=True),
}
