"""Published sizes have the published number of parameters, to the last one."""

import math

import jax
import pytest

from lctx import presets
from lctx.memory import (
  Associative,
  Compressive,
  GatedDelta,
  Infini,
  LongMemory,
  Melodi,
  Retrieval,
  SinkCache,
  StateCell,
  Together,
  Tokens,
  XLCache,
)
from lctx.positions import NoPosition, RelativeXL
from lctx.positions.xl import LearnedRelative

WT103, LM1B = (20_000, 40_000, 200_000), (60_000, 100_000, 640_000)
TIED = (False, True, True, True)
PUBLISHED = {
  'enwik8 base': (
    41_055_436,
    {
      'depth': 12,
      'width': 512,
      'num_heads': 8,
      'ffn_width': 2048,
      'vocab': 204,
    },
  ),
  'enwik8 large': (
    277_231_820,
    {
      'depth': 24,
      'width': 1024,
      'num_heads': 8,
      'ffn_width': 3072,
      'vocab': 204,
    },
  ),
  'text8 base': (
    40_964_635,
    {
      'depth': 12,
      'width': 512,
      'num_heads': 8,
      'ffn_width': 2048,
      'vocab': 27,
    },
  ),
  'wt103 base': (
    151_107_538,
    {
      'depth': 16,
      'width': 410,
      'num_heads': 10,
      'ffn_width': 2100,
      'vocab': 267_735,
      'cutoffs': WT103,
      'tie_projections': TIED,
    },
  ),
  'wt103 large': (
    285_170_506,
    {
      'depth': 18,
      'width': 1024,
      'num_heads': 16,
      'ffn_width': 4096,
      'vocab': 267_735,
      'cutoffs': WT103,
      'tie_projections': TIED,
      'div_val': 4,
    },
  ),
  'lm1b base': (
    357_812_082,
    {
      'depth': 18,
      'width': 1024,
      'num_heads': 8,
      'ffn_width': 4096,
      'vocab': 793_471,
      'cutoffs': LM1B,
      'div_val': 4,
    },
  ),
  'lm1b large': (
    841_295_982,
    {
      'depth': 24,
      'width': 1280,
      'num_heads': 16,
      'ffn_width': 8192,
      'vocab': 793_471,
      'cutoffs': LM1B,
      'div_val': 4,
    },
  ),
}


def count(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_published_models_have_the_published_number_of_parameters(name):
  want, fields = PUBLISHED[name]
  model = presets.transformer_xl(memory_length=512, **fields)
  params = jax.eval_shape(model.init_params, jax.random.key(0))
  assert count(params) == want
  if name == 'wt103 base':
    assert count(params['layers']) == 41_066_400


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'num_heads': 3}, r'model\.stack\.num_heads = 3 does not divide'),
    ({'width': 15, 'num_heads': 3}, r'model\.embed\.width = 15 must be even'),
    ({'memory_length': -1}, r'model\.memory\.length = -1'),
    ({'dropout': 1.0}, r'model\.dropout\.hidden = 1\.0'),
    ({'cutoffs': (9, 9)}, r'model\.embed\.cutoffs = \(9, 9\) must rise'),
    ({'cutoffs': (9, 29)}, r'below the vocabulary, model\.embed\.vocab = 29'),
    ({'cutoffs': (9,), 'div_val': 64}, r'model\.embed\.div_val = 64 leaves'),
    ({'tie_projections': (True, True)}, r'has 2 flags for the 1 bins'),
    ({'clamp': 0}, r'model\.position\.clamp = 0'),
    ({'clamp': 4, 'position': LearnedRelative(3)}, 'both a position and clamp'),
    ({'same_length': True, 'memory_length': 0}, r'memory\.same_length = true'),
  ],
)
def test_sizes_that_cannot_be_are_refused_by_name(fields, words):
  sizes = {'depth': 2, 'width': 16, 'num_heads': 2, 'memory_length': 4}
  with pytest.raises(ValueError, match=words):
    presets.transformer_xl(**sizes | {'vocab': 29} | fields)


def test_the_tokenizer_gives_the_vocabulary_unless_the_config_does():
  model = presets.transformer_xl(2, 16, 2, 4)
  assert model.with_vocabulary(29).embed.vocab == 29
  padded = presets.transformer_xl(2, 16, 2, 4, vocab=32)
  assert padded.with_vocabulary(29).embed.vocab == 32
  with pytest.raises(
    ValueError, match=r'model\.embed\.vocab = 32 is too small'
  ):
    padded.with_vocabulary(33)


def test_published_models_have_their_memory_on_their_layers():
  """As their papers count layers: from 1."""
  sizes = {'depth': 12, 'width': 32, 'num_heads': 2}

  def layers(model):
    return [model.memory.of_layers(12)[i - 1] for i in range(1, 13)]

  cells = layers(presets.block_recurrent(**sizes, window=8, cell=StateCell(4)))
  near = XLCache(8, same_length=True)
  assert cells[9] == Together(near, StateCell(4)) and cells.count(near) == 11
  looked = layers(presets.memorizing(**sizes, cache=8, retrieval=Retrieval(64)))
  assert looked[8] == Together(near, Retrieval(64)) and looked.count(near) == 11
  hybrid = layers(presets.gated_delta(**sizes, cache=8))
  states = 3 * [GatedDelta()]
  assert hybrid == 3 * [*states, XLCache(8)]
  for every in (1, 13):
    with pytest.raises(ValueError, match='must be 2 to depth = 12'):
      presets.gated_delta(**sizes, cache=8, every=every)
  mixed = layers(presets.melodi(**sizes, memory=Melodi(8, long=LongMemory(64))))
  assert mixed[6].long and [x for x in mixed if x.long] == [mixed[6]]
  assert set(mixed) == {mixed[6], Melodi(8)}


@pytest.mark.parametrize(
  'model',
  [
    presets.remembering(2, 16, 2, Compressive(8, 8), position=RelativeXL()),
    presets.remembering(2, 16, 2, Tokens()),
    presets.remembering(2, 16, 2, Associative()),
    presets.remembering(2, 16, 2, Infini(), position=NoPosition()),
    presets.remembering(2, 16, 2, SinkCache(8)),
  ],
  ids=lambda model: type(model.memory).__name__,
)
def test_a_published_model_is_one_line(model):
  model = model.with_vocabulary(29)
  shapes = jax.eval_shape(lambda: model.initial(3))
  assert model.stack.pre_norm and jax.tree.leaves(shapes)
