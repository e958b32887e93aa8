"""BERT, RoBERTa, Longformer and BigBird as Hugging Face names them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lctx import presets
from lctx.interop import inputs
from lctx.interop.activations import activation, name_of
from lctx.interop.family import Family
from lctx.interop.labels import count_of, said_of
from lctx.interop.layers import array, into_heads, linear, norm, out_of_heads
from lctx.interop.options import Options
from lctx.interop.tables import Entry, of_layers
from lctx.interop.windows import global_attention, widths_of
from lctx.layers.ffn import Gelu
from lctx.layers.norm import LayerNorm
from lctx.memory import GlobalAttention, Memory
from lctx.models.parts import Dropout
from lctx.models.tasks import (
  MaskedWords,
  Spans,
  States,
  Task,
  TextLabels,
  TokenLabels,
)
from lctx.models.text import Encoder
from lctx.patterns import Everything, LayerPatterns, Window
from lctx.positions import Learned

SILENT = 'initializer_range', 'sep_token_id', 'onnx_export', 'pooler_type'
LABELS = 'labels'


class Names(NamedTuple):
  """What differs from one of these families to the next."""

  kind: str  # model_type
  body: str
  words: dict[str, str]  # the head of a masked language model: theirs to ours
  labels: dict[str, str]  # of a text
  pads: bool  # whether positions begin behind the id of padding
  pooler: str = 'pooler.dense'


BERT = Names(
  'bert',
  'bert.',
  {
    'dense': 'cls.predictions.transform.dense',
    'norm': 'cls.predictions.transform.LayerNorm',
    'bias': 'cls.predictions.bias',
    'decoder': 'cls.predictions.decoder',
  },
  {'bert.pooler.dense': 'pooled', 'classifier': LABELS},
  pads=False,
)
ROBERTA = Names(
  'roberta',
  'roberta.',
  {
    'dense': 'lm_head.dense',
    'norm': 'lm_head.layer_norm',
    'bias': 'lm_head.bias',
    'decoder': 'lm_head.decoder',
  },
  {'classifier.dense': 'pooled', 'classifier.out_proj': LABELS},
  pads=True,
)
LONGFORMER = ROBERTA._replace(kind='longformer', body='longformer.')
BIG_BIRD = BERT._replace(
  kind='big_bird', labels=ROBERTA.labels, pooler='pooler'
)


def model_for(options: Options, names: Names, task: Callable) -> Encoder:
  """`task` of the options, the norm and the activation."""
  options.expect('is_decoder', False)
  options.expect('add_cross_attention', False)
  options.expect('position_embedding_type', 'absolute')
  options.expect('tie_word_embeddings', True)
  padding = options.take('pad_token_id', 1 if names.pads else 0)
  first = padding + 1 if names.pads else 0
  context = options.take('max_position_embeddings', 512)
  layer_norm = LayerNorm(options.take('layer_norm_eps', 1e-12))
  bent = activation(options, 'hidden_act', _ACTIVATION[names.kind])
  hidden = options.take('hidden_dropout_prob', 0.1)
  attention = options.take('attention_probs_dropout_prob', 0.1)
  if options.take('classifier_dropout', hidden) != hidden:
    raise ValueError(
      f'{options.where} has a classifier_dropout that is not '
      'hidden_dropout_prob, but model.dropout.hidden is one number. Give them '
      'one value; it matters to training alone.'
    )
  asked = task(options, layer_norm, bent)
  model = presets.bert(
    options.take('num_hidden_layers', 12),
    options.take('hidden_size', 768),
    options.take('num_attention_heads', 12),
    context,
    embed={
      'vocab': options.take('vocab_size'),
      'types': options.take('type_vocab_size', 2),
      'norm': layer_norm,
      'out_bias': isinstance(asked, MaskedWords),
      'scaled': options.take('rescale_embeddings', False),
    },
    stack={
      'ffn_width': options.take('intermediate_size', 3072),
      'norm': layer_norm,
      'ffn': bent,
    },
    position=Learned(context, first),
    dropout=Dropout(hidden, attention),
    task=asked,
    **_OWN.get(names.kind, lambda options: {})(options),
  )
  options.check_all_read(SILENT)
  return model


def _of_longformer(options):
  options.expect('attention_mode', 'longformer')
  options.expect('ignore_attention_mask', False)
  return global_attention(options)


def _of_big_bird(options):
  biases = options.take('use_bias', True)
  kind = options.take('attention_type', 'block_sparse')
  if kind != 'original_full':
    raise ValueError(
      f'{options.where} has attention_type = {kind!r}, whose random blocks its '
      'own library draws anew, so its numbers cannot be met. Set it to '
      "'original_full', which attends to all and has the same parameters."
    )
  options.take('block_size', 64), options.take('num_random_blocks', 3)
  return {'heads': {'bias': biases, 'out_bias': True}, 'pattern': Everything()}


_ACTIVATION = {'big_bird': 'gelu_new'}
_ACTIVATION |= dict.fromkeys(('bert', 'roberta', 'longformer'), 'gelu')
_OWN = {'longformer': _of_longformer, 'big_bird': _of_big_bird}


def config_of(model: Encoder, names: Names) -> dict[str, Any]:
  stack, task = model.stack, model.task
  found = {
    'model_type': names.kind,
    'num_hidden_layers': stack.depth,
    'hidden_size': model.embed.width,
    'num_attention_heads': stack.num_heads,
    'intermediate_size': stack.ffn_width_of(model.embed.width),
    'vocab_size': model.embed.vocab,
    'type_vocab_size': model.embed.types,
    'max_position_embeddings': model.position.length,
    'layer_norm_eps': stack.norm.epsilon,
    'hidden_act': name_of(stack.ffn),
    'hidden_dropout_prob': model.dropout.hidden,
    'attention_probs_dropout_prob': model.dropout.attention,
    'pad_token_id': model.position.first - 1 if names.pads else 0,
    'tie_word_embeddings': True,
  }
  if isinstance(task, TextLabels | TokenLabels):
    found |= said_of(task.labels)
  if names.kind == 'longformer':
    found['attention_window'] = widths_of(model.pattern, stack.depth)
  if names.kind == 'big_bird':
    found |= {'attention_type': 'original_full', 'use_bias': model.heads.bias}
    found['rescale_embeddings'] = model.embed.scaled
  return found


def entries(model: Encoder, names: Names) -> list[Entry]:
  embed, width = model.embed, model.embed.width
  body = '' if isinstance(model.task, States) else names.body
  at = f'{body}embeddings.'
  length = model.position.length
  path = 'vocabulary', 'table_0'
  return [
    array(f'{at}word_embeddings.weight', path, embed.vocab, width),
    array(
      f'{at}position_embeddings.weight', ('placed', 'table'), length, width
    ),
    array(
      f'{at}token_type_embeddings.weight',
      ('vocabulary', 'types'),
      embed.types,
      width,
    ),
    *norm(f'{at}LayerNorm', 'embed_norm', width, bias=True),
    *of_layers(model, _layer(model), f'{body}encoder.layer.{{}}.'),
    *_head(model, names),
  ]


def _layer(model):
  sizes, width = model.sizes(), model.embed.width
  hidden, shape = model.stack.ffn_width_of(width), (width,)
  heads, biased = (sizes.num_heads, sizes.head_width), model.heads.bias
  for leaf in ('query', 'key', 'value'):
    name = f'attention.self.{leaf}'
    yield from into_heads(name, leaf, width, heads, bias=biased)
    if isinstance(model.memory, GlobalAttention):
      given = f'{name}_global', f'memory_{leaf}', width, heads
      yield from into_heads(*given, bias=biased, of=())
  yield from out_of_heads('attention.output.dense', width, heads, bias=True)
  yield from norm('attention.output.LayerNorm', 'norm_0', *shape, bias=True)
  yield from linear('intermediate.dense', 'in', (width, hidden), bias=True)
  yield from linear('output.dense', 'out', (hidden, width), bias=True)
  yield from norm('output.LayerNorm', 'norm_1', *shape, bias=True)


def _head(model, names):
  width, task = model.embed.width, model.task
  square = width, width
  if isinstance(task, MaskedWords):
    words = names.words
    yield from linear(words['dense'], 'dense', square, bias=True, of=('task',))
    yield from norm(words['norm'], ('task',), width, bias=True)
    path = 'vocabulary', 'out_bias_0'
    yield array(words['bias'], path, model.embed.vocab)
    return
  found = {'classifier': LABELS}
  if isinstance(task, States):
    found = {names.pooler: 'pooled'} if task.pooled else {}
  elif isinstance(task, Spans):
    found = {'qa_outputs': LABELS}
  elif isinstance(task, TextLabels):
    found = names.labels
  for name, leaf in found.items():
    shape = square if leaf == 'pooled' else (width, task.labels)
    yield from linear(name, leaf, shape, bias=True, of=('answers',))


def tied(model: Encoder, names: Names) -> dict[str, str]:
  if not isinstance(model.task, MaskedWords):
    return {}
  decoder = names.words['decoder']
  return {
    f'{decoder}.weight': f'{names.body}embeddings.word_embeddings.weight',
    f'{decoder}.bias': names.words['bias'],
  }


def _unused(model: Encoder, names: Names) -> dict[str, tuple[int, ...]]:
  """A BigBird has its pooler where nothing asks for it, too."""
  if names is not BIG_BIRD or isinstance(model.task, States):
    return {}
  width, name = model.embed.width, f'{names.body}{names.pooler}'
  return {f'{name}.weight': (width, width), f'{name}.bias': (width,)}


def _unread(name: str) -> bool:
  """Buffers, and heads of pretraining beside the one that is read."""
  buffers = '.position_ids', '.token_type_ids'
  heads = 'cls.seq_relationship.', 'bert.pooler.', 'roberta.pooler.'
  return name.endswith(buffers) or name.startswith(
    (*heads, 'longformer.pooler.')
  )


def _masked(options, norm, bent):
  return MaskedWords(bent, norm)


def _masked_by_gelu(options, norm, bent):
  """RoBERTa's head bends so, whatever its layers do."""
  return MaskedWords(Gelu(), norm)


def _states(options, norm, bent):
  poolers = {'pooler.dense.weight', 'pooler.weight'}
  return States(pooled=bool(poolers & {*options.arrays}))


def _text(options, norm, bent, bends: bool = False):
  labels = count_of(options)
  return TextLabels(labels, bent=bent) if bends else TextLabels(labels)


def _tokens(options, norm, bent):
  return TokenLabels(count_of(options))


def _span(options, norm, bent):
  return Spans(count_of(options))


def _inputs(given: Mapping, config: Mapping, names: Names, task: Any):
  if names.kind == 'longformer' and 'global_attention_mask' not in given:
    if task is _text:
      mask = inputs.first_alone(given)
      given = {**given, 'global_attention_mask': mask}
    if task is _span:
      mask = inputs.before_first(given, config['sep_token_id'])
      given = {**given, 'global_attention_mask': mask}
  of = inputs.from_padding if names.pads else inputs.inputs
  return of(given, config)


def _family(names: Names, task: Callable) -> Family:
  parts = {'position': Learned, 'stack.norm': LayerNorm, 'memory': Memory}
  parts['pattern'] = Everything
  if names is LONGFORMER:
    parts |= {'memory': GlobalAttention, 'pattern': Window | LayerPatterns}
  return Family(
    functools.partial(model_for, names=names, task=task),
    functools.partial(config_of, names=names),
    functools.partial(entries, names=names),
    functools.partial(tied, names=names),
    body='' if task is _states else names.body,
    parts=parts,
    ignored=_unread,
    inputs=functools.partial(_inputs, names=names, task=task),
    model=Encoder,
    unused=functools.partial(_unused, names=names),
  )


_TASKS: dict[str, Callable[..., Task]] = {
  'Model': _states,
  'ForMaskedLM': _masked,
  'ForSequenceClassification': _text,
  'ForTokenClassification': _tokens,
  'ForQuestionAnswering': _span,
}
_KINDS = {
  'Bert': BERT,
  'Roberta': ROBERTA,
  'Longformer': LONGFORMER,
  'BigBird': BIG_BIRD,
}
FAMILIES = {
  f'{kind}{head}': _family(names, task)
  for kind, names in _KINDS.items()
  for head, task in _TASKS.items()
}
for names in (ROBERTA, LONGFORMER):
  kind = names.kind.title()
  FAMILIES[f'{kind}ForMaskedLM'] = _family(names, _masked_by_gelu)
del FAMILIES['BigBirdForQuestionAnswering']  # has a head of its own
FAMILIES['BigBirdForSequenceClassification'] = _family(
  BIG_BIRD, functools.partial(_text, bends=True)
)
