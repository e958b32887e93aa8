"""BERT, RoBERTa and Longformer as Hugging Face names them."""

import functools
from collections.abc import Callable, Mapping

from lctx.interop import inputs
from lctx.interop.encoder_heads import HEADS, LABELS, WORDS, Names
from lctx.interop.encoders import Kind, family
from lctx.interop.inputs import from_padding
from lctx.interop.windows import global_attention, widths_of
from lctx.layers.ffn import Gelu
from lctx.memory import GlobalAttention
from lctx.patterns import LayerPatterns, Window

OWN_POOLER = {'classifier.dense': 'pooled', 'classifier.out_proj': LABELS}
BERT = Kind(
  'bert',
  Names(
    'bert.',
    {
      'dense': 'cls.predictions.transform.dense',
      'norm': 'cls.predictions.transform.LayerNorm',
      'bias': 'cls.predictions.bias',
      'decoder': 'cls.predictions.decoder',
    },
    {'bert.pooler.dense': 'pooled', 'classifier': LABELS},
  ),
)
ROBERTA = Kind(
  'roberta',
  Names(
    'roberta.',
    {
      'dense': 'lm_head.dense',
      'norm': 'lm_head.layer_norm',
      'bias': 'lm_head.bias',
      'decoder': 'lm_head.decoder',
    },
    OWN_POOLER,
  ),
  pads=True,
)


def _with_windows(model, options):
  options.expect('attention_mode', 'longformer')
  options.expect('ignore_attention_mask', False)
  return model.clone(**global_attention(options))


def _windows(model):
  return {'attention_window': widths_of(model.pattern, model.stack.depth)}


LONGFORMER = ROBERTA._replace(
  model_type='longformer',
  names=ROBERTA.names._replace(body='longformer.'),
  with_own=_with_windows,
  own=_windows,
  parts={'pattern': Window | LayerPatterns, 'memory': GlobalAttention},
)


def _global_where(mask: Callable, given: Mapping, config: Mapping):
  """Inputs with a mask of the library's own, where none is given."""
  if 'global_attention_mask' not in given:
    given = {**given, 'global_attention_mask': mask(given, config)}
  return from_padding(given, config)


def _first(given, config):
  return inputs.first_alone(given)


def _question(given, config):
  return inputs.before_first(given, config['sep_token_id'])


def _by_gelu(options, like):
  """RoBERTa's head of words bends so, whatever its layers do."""
  return WORDS.task(options, like._replace(ffn=Gelu()))


_BY_GELU = HEADS | {'ForMaskedLM': WORDS._replace(task=_by_gelu)}
FAMILIES = {
  f'{name}{head}': family(kind, asked)
  for name, kind, heads in (
    ('Bert', BERT, HEADS),
    ('Roberta', ROBERTA, _BY_GELU),
    ('Longformer', LONGFORMER, _BY_GELU),
  )
  for head, asked in heads.items()
}
for head, mask in (
  ('SequenceClassification', _first),
  ('QuestionAnswering', _question),
):
  name = f'LongformerFor{head}'
  read = functools.partial(_global_where, mask)
  FAMILIES[name] = FAMILIES[name]._replace(inputs=read)
