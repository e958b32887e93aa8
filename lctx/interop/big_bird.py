"""BigBird as Hugging Face names it, and as its library reads by blocks.

The numbers are those which that library gives in evaluation. There it draws no
random blocks: each is the first block, which queries of the middle count
1 + num_random_blocks times. A segment of at most (5 + 2 x num_random_blocks) x
block_size tokens sees all (`BlockSparse.whole`).

When it trains, it draws blocks anew at each step, which lctx does not. To train
with blocks that are drawn once, as the paper has them, give the pattern a seed
(and as many `heads` as the model has, to draw for each of them), and segments
that are long enough:

  --config.model.pattern.seed=0 --config.data.segment=4096

What is then written is a model like the published ones, in which nothing says
what was drawn.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lctx.interop.bert import BERT, OWN_POOLER
from lctx.interop.encoder_heads import (
  HEADS,
  LABELS,
  TEXTS,
  Head,
  of_answers,
)
from lctx.interop.encoders import Kind, family
from lctx.interop.inputs import Text, inputs
from lctx.interop.labels import count_of
from lctx.interop.layers import linear, norm
from lctx.interop.options import Options
from lctx.models.tasks import QuestionSpans, TextLabels
from lctx.models.text import Encoder
from lctx.patterns import BlockSparse, Everything
from lctx.types import PREFIX

FULL, SPARSE = 'original_full', 'block_sparse'
SEPARATOR = 66  # the id of [SEP], where a file does not say it


def _with_own(model: Encoder, options: Options) -> Encoder:
  given = options.take('block_size', 64), options.take('num_random_blocks', 3)
  pattern = Everything()
  if options.expect('attention_type', SPARSE, FULL) == SPARSE:
    block, random = given
    pattern = BlockSparse(block=block, random=random, seed=None)
  scaled = options.take('rescale_embeddings', False)
  biases = options.take('use_bias', True)
  return model.clone(
    embed=dataclasses.replace(model.embed, scaled=scaled),
    heads=dataclasses.replace(model.heads, bias=biases),
    pattern=pattern,
  )


def _own(model: Encoder) -> dict[str, Any]:
  pattern = model.pattern
  said = {'attention_type': FULL}
  if isinstance(pattern, BlockSparse):
    said = {
      'attention_type': SPARSE,
      'block_size': pattern.block,
      'num_random_blocks': pattern.random,
    }
  biased, scaled = model.heads.bias, model.embed.scaled
  return said | {'use_bias': biased, 'rescale_embeddings': scaled}


BIG_BIRD = Kind(
  'big_bird',
  BERT.names._replace(labels=OWN_POOLER, pooler='pooler'),
  activation='gelu_new',
  with_own=_with_own,
  own=_own,
  parts={**BERT.parts, 'pattern': Everything | BlockSparse},
)


def _texts(options, like):
  """They bend as the layers do."""
  return TextLabels(count_of(options), bent=like.ffn)


def _spans(options, like):
  norm, ffn, hidden = like
  return QuestionSpans(count_of(options), ffn, norm, hidden)


def _of_spans(model, names):
  width, hidden = model.embed.width, model.task.hidden
  of, name = {'of': ('answers',), 'bias': True}, 'qa_classifier.'
  yield from linear(f'{name}intermediate.dense', 'in', (width, hidden), **of)
  yield from linear(f'{name}output.dense', 'out', (hidden, width), **of)
  yield from norm(f'{name}output.LayerNorm', ('answers',), width, bias=True)
  yield from of_answers(model, {f'{name}qa_outputs': LABELS})


def _of_question(given: Mapping, config: Mapping) -> Text:
  """Up to the first [SEP] it is a question, of another type than the rest."""
  ids, mark = given['input_ids'], config.get('sep_token_id', SEPARATOR)
  last_B1 = np.argmax(ids == mark, axis=1)[:, None]
  asks = np.arange(ids.shape[1])[None] <= last_B1
  given = {'token_type_ids': 1 - asks.astype(np.int32), **given}
  tokens, at = inputs(given, config)
  return Text(tokens, at.replace(role=at.role | np.where(asks, PREFIX, 0)))


def _unused(model: Encoder) -> dict[str, tuple[int, ...]]:
  """A pooler, where nothing asks for it."""
  width, name = model.embed.width, f'{BIG_BIRD.names.body}pooler'
  return {f'{name}.weight': (width, width), f'{name}.bias': (width,)}


_HEADS = HEADS | {
  'ForSequenceClassification': TEXTS._replace(task=_texts),
  'ForQuestionAnswering': Head(QuestionSpans, _spans, _of_spans),
}
FAMILIES = {
  f'BigBird{head}': family(BIG_BIRD, asked) for head, asked in _HEADS.items()
}
for head in HEADS.keys() - {'Model', 'ForQuestionAnswering'}:
  name = f'BigBird{head}'
  FAMILIES[name] = FAMILIES[name]._replace(unused=_unused)
asked = 'BigBirdForQuestionAnswering'
FAMILIES[asked] = FAMILIES[asked]._replace(inputs=_of_question)
