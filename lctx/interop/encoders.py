"""What BERT, RoBERTa, Longformer and BigBird have in common in their files."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from lctx import presets
from lctx.interop.activations import activation, name_of
from lctx.interop.encoder_heads import STATES, Head, Like, Names, tied
from lctx.interop.family import Family
from lctx.interop.inputs import from_padding, inputs
from lctx.interop.labels import said_of
from lctx.interop.layers import array, into_heads, linear, norm, out_of_heads
from lctx.interop.options import Options
from lctx.interop.tables import Entry, of_layers
from lctx.layers.norm import LayerNorm
from lctx.memory import GlobalAttention, Memory
from lctx.models.parts import Dropout
from lctx.models.tasks import MaskedWords, States, TextLabels, TokenLabels
from lctx.models.text import Encoder
from lctx.patterns import Everything
from lctx.positions import Learned

SILENT = 'initializer_range', 'sep_token_id', 'onnx_export', 'pooler_type'
# Their second head, of whether a sentence follows another, is not read.
READ_AS = {
  f'{kind}ForPreTraining': f'{kind}ForMaskedLM' for kind in ('Bert', 'BigBird')
}


class Kind(NamedTuple):
  """One of these families, and what it has beside the others."""

  model_type: str
  names: Names
  pads: bool = False  # whether positions begin behind the id of padding
  activation: str = 'gelu'
  # Reads the options that it alone has; and the way back.
  with_own: Callable[[Encoder, Options], Encoder] = lambda model, options: model
  own: Callable[[Encoder], dict[str, Any]] = lambda model: {}
  parts: dict[str, Any] = {'pattern': Everything, 'memory': Memory}


def family(kind: Kind, head: Head) -> Family:
  """One of its architectures."""
  parts = {'position': Learned, 'stack.norm': LayerNorm, 'task': head.asks}
  return Family(
    functools.partial(model_for, kind=kind, head=head),
    functools.partial(config_of, kind=kind),
    functools.partial(entries, kind=kind, head=head),
    functools.partial(tied, names=kind.names),
    body='' if head is STATES else kind.names.body,
    parts=parts | kind.parts,
    ignored=_unread,
    inputs=from_padding if kind.pads else inputs,
    model=Encoder,
  )


def model_for(options: Options, kind: Kind, head: Head) -> Encoder:
  """What `head` asks, of the norm and the activation of the body, too."""
  options.expect('is_decoder', False)
  options.expect('add_cross_attention', False)
  options.expect('position_embedding_type', 'absolute')
  options.expect('tie_word_embeddings', True)
  padding = options.take('pad_token_id', 1 if kind.pads else 0)
  first = padding + 1 if kind.pads else 0
  context = options.take('max_position_embeddings', 512)
  like = Like(
    LayerNorm(options.take('layer_norm_eps', 1e-12)),
    activation(options, 'hidden_act', kind.activation),
    options.take('intermediate_size', 3072),
  )
  task = head.task(options, like)
  model = presets.bert(
    options.take('num_hidden_layers', 12),
    options.take('hidden_size', 768),
    options.take('num_attention_heads', 12),
    context,
    embed={
      'vocab': options.take('vocab_size'),
      'types': options.take('type_vocab_size', 2),
      'norm': like.norm,
      'out_bias': isinstance(task, MaskedWords),
    },
    stack={'ffn_width': like.hidden, 'norm': like.norm, 'ffn': like.ffn},
    position=Learned(context, first),
    dropout=_dropout(options),
    task=task,
  )
  model = kind.with_own(model, options)
  options.check_all_read(SILENT)
  return model


def _dropout(options):
  hidden = options.take('hidden_dropout_prob', 0.1)
  attention = options.take('attention_probs_dropout_prob', 0.1)
  if options.take('classifier_dropout', hidden) != hidden:
    raise ValueError(
      f'{options.where} has a classifier_dropout that is not '
      'hidden_dropout_prob, but model.dropout.hidden is one number. Give them '
      'one value; it matters to training alone.'
    )
  return Dropout(hidden, attention)


def config_of(model: Encoder, kind: Kind) -> dict[str, Any]:
  stack, task = model.stack, model.task
  found = {
    'model_type': kind.model_type,
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
    'pad_token_id': model.position.first - 1 if kind.pads else 0,
    'tie_word_embeddings': True,
  }
  if isinstance(task, TextLabels | TokenLabels):
    found |= said_of(task.labels)
  return found | kind.own(model)


def entries(model: Encoder, kind: Kind, head: Head) -> list[Entry]:
  embed, width = model.embed, model.embed.width
  body = '' if isinstance(model.task, States) else kind.names.body
  at = f'{body}embeddings.'
  length = model.position.length
  path = 'vocabulary', 'table_0'
  types = 'vocabulary', 'types'
  return [
    array(f'{at}word_embeddings.weight', path, embed.vocab, width),
    array(
      f'{at}position_embeddings.weight', ('placed', 'table'), length, width
    ),
    array(f'{at}token_type_embeddings.weight', types, embed.types, width),
    *norm(f'{at}LayerNorm', 'embed_norm', width, bias=True),
    *of_layers(model, _layer(model), f'{body}encoder.layer.{{}}.'),
    *head.entries(model, kind.names),
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


def _unread(name: str) -> bool:
  """Buffers, and heads of pretraining beside the one that is read."""
  buffers = '.position_ids', '.token_type_ids'
  heads = 'cls.seq_relationship.', 'bert.pooler.', 'roberta.pooler.'
  return name.endswith(buffers) or name.startswith(
    (*heads, 'longformer.pooler.')
  )
