"""Parts that cannot work together are refused when the config is built."""

import dataclasses

import pytest

from lctx import presets
from lctx.config import Config, override
from lctx.data import Bytes, Lanes, Stdlib
from lctx.memory import (
  Compressive,
  GatedDelta,
  Infini,
  OnLayers,
  SinkCache,
  Together,
  XLCache,
)
from lctx.optimizer import Adam
from lctx.patterns import Everything
from lctx.positions import NoPosition


def settings(**overrides):
  config = Config(
    model=presets.transformer_xl(2, 16, num_heads=2, memory_length=8),
    data=Lanes(Stdlib(), Bytes(), rows=4, segment=8),
    optimizer=Adam(peak=1e-3),
  )
  names = {name.replace('__', '.'): text for name, text in overrides.items()}
  return override(config, names)


BAND = {'model__compute__kernel': 'banded'}
REFUSED = {
  'sees what it must predict': (
    {'model__pattern': 'everything'},
    ['model.pattern', 'predicts the next token', 'Causal() &'],
  ),
  'a window ahead': (
    {'model__pattern': 'window', 'model__pattern__before': '3'}
    | {'model__pattern__after': '1'},
    ['model.pattern', 'lets a token see those after it'],
  ),
  'roles that no text has': (
    {'model__pattern': 'both', 'model__pattern__first': 'causal'}
    | {'model__pattern__second': 'globaltokens'},
    ['model.pattern', 'chooses tokens by their role', 'first'],
  ),
  'no rows ahead': (
    {'model__position': 'learnedrelative', 'model__position__length': '9'}
    | {'model__pattern': 'everything'},
    ['model.position.ahead', 'causal'],
  ),
  'no buckets ahead': (
    {'model__position': 't5bias', 'model__pattern': 'everything'},
    ['model.position.both_ways=true'],
  ),
  'positions end in a segment': (
    {'model__position': 'learned', 'model__position__length': '7'},
    ['data.segment = 8', 'model.position.length = 7'],
  ),
  'heads that do not divide': (
    {'model__heads__keys': '3'},
    ['model.heads.keys = 3', 'Use one of 1, 2'],
  ),
  'a gap for each head': (
    {'model__pattern': 'dilated', 'model__pattern__before': '3'}
    | {'model__pattern__gaps': '(1,2,3)'},
    ['gaps for 3 heads', 'model.stack.num_heads = 2'],
  ),
  'a band without an end': (BAND, ['kernel = banded', 'kernel=chunked']),
  'a staircase in the stock kernel': (
    {'model__compute__kernel': 'splash', 'model__pattern': 'staircase'}
    | {'model__pattern__before': '3'},
    ['kernel = splash', 'not Staircase(before=3)', 'kernel=auto'],
  ),
  'weights dropped by the stock kernel': (
    {'model__compute__kernel': 'splash', 'model__dropout__attention': '0.1'},
    ['splash drops no weights', 'model.dropout.attention = 0.1', 'kernel=auto'],
  ),
  'an odd rotated width': (
    {'model__position': 'rope', 'model__position__share': '0.4'},
    ['model.position.share = 0.4', 'rotates 3 channels'],
  ),
  'states that no rate divides': (
    {'model__memory': 'compressive', 'model__memory__rate': '3'},
    ['data.segment = 8', 'model.memory.rate = 3', 'Use 6 tokens'],
  ),
  'a window over compressed states': (
    {'model__memory': 'compressive', 'model__pattern': 'window'}
    | {'model__pattern__before': '3'},
    ['model.memory = compressive', 'model.pattern=causal'],
  ),
  'sinks behind a segment': (
    {'model__memory': 'sinkcache', 'model__memory__recent': '4'},
    ['data.segment = 8', 'model.memory.recent = 4'],
  ),
  'memory tokens that a window hides': (
    {'model__memory': 'tokens', 'model__pattern': 'window'}
    | {'model__pattern__before': '3'},
    ['model.memory = tokens', 'model.pattern=causal'],
  ),
  'retrieval from gaps': (
    {'model__memory': 'retrieval', 'model__pattern': 'dilated'}
    | {'model__pattern__before': '3', 'model__pattern__gaps': '(1,2)'},
    ['model.memory = retrieval', 'leaves gaps', 'Use causal or window'],
  ),
  'a scale of nothing': (
    {'model__memory': 'gateddelta', 'model__heads__scale': '2.0'},
    ['model.heads', 'without effect', 'model.memory.gate'],
  ),
  'a scale below zero': (
    {'model__heads__scale': '-1'},
    ['model.heads.scale = -1.0', 'above 0'],
  ),
  'queries of two sizes': (
    {'model__memory': 'statecell', 'model__heads__scale': '2.0'},
    ['model.heads.scale', 'model.memory = statecell', 'Use one of the two'],
  ),
  'norms after parts that are not normed before': (
    {'model__stack__norm_after': 'true'},
    ['model.stack.norm_after', 'model.stack.pre_norm is off'],
  ),
  'two parts at once that are not normed before': (
    {'model__stack__parallel': 'true'},
    ['model.stack.parallel', 'model.stack.pre_norm is off'],
  ),
  'a bound of nothing': (
    {'model__embed__out_cap': '0'},
    ['model.embed.out_cap = 0.0', 'above 0'],
  ),
  'a cap on nothing': (
    {'model__memory': 'gateddelta', 'model__heads__cap': '2.0'},
    ['model.heads', 'without effect', 'model.memory.gate'],
  ),
  'a window over nothing': (
    {'model__memory': 'gateddelta', 'model__pattern': 'window'}
    | {'model__pattern__before': '3'},
    ['model.pattern = Window(before=3', 'model.memory.gate'],
  ),
  'weights of no attention dropped': (
    {'model__memory': 'gateddelta', 'model__dropout__attention': '0.1'},
    ['model.dropout.attention = 0.1', 'model.memory.gate'],
  ),
  'a memory for other layers than there are': (
    {'model__memory': 'onlayers', 'model__memory__layers': '(0,1)'}
    | {'model__memory__memory': 'retrieval'}
    | {'model__memory__others': 'xlcache'},
    ['model.memory.layers = (0, 1)', 'model.memory.others = XLCache'],
  ),
  'more neighbours than channels': (
    {'model__memory': 'associative', 'model__memory__width': '1'},
    ['model.memory.degree = 3', 'model.memory.width = 1', 'more width'],
  ),
  'weights of another segment': (
    {'model__memory': 'melodi', 'model__memory__segment': '9'},
    ['data.segment = 8', 'model.memory.segment = 9'],
  ),
  'a band over all that is retrieved': (
    BAND
    | {'model__memory': 'denseretrieval', 'model__pattern': 'window'}
    | {'model__pattern__before': '3'},
    ['kernel = banded', 'model.memory = denseretrieval', 'kernel=chunked'],
  ),
  'several sets of keys in the stock kernel': (
    {'model__memory': 'compressive', 'model__compute__kernel': 'splash'},
    ['kernel = splash', 'model.memory = compressive', 'kernel=auto'],
  ),
  'a layer that is not there': (
    {'model__memory': 'onlayers', 'model__memory__layers': '(7,)'}
    | {'model__memory__memory': 'retrieval'},
    ['model.memory.layers = (7,)', 'of -2 to 1'],
  ),
  'one layer twice': (
    {'model__memory': 'onlayers', 'model__memory__layers': '(1,-1)'}
    | {'model__memory__memory': 'retrieval'},
    ['model.memory.layers = (1, -1)', 'at most once'],
  ),
  'memory tokens on one layer': (
    {'model__memory': 'onlayers', 'model__memory__layers': '(1,)'}
    | {'model__memory__memory': 'tokens'},
    ['puts tokens before the text', 'Use it on all layers'],
  ),
  'two kinds of tokens': (
    {'model__memory': 'together', 'model__memory__first': 'tokens'}
    | {'model__memory__second': 'associative'},
    ['two memories that put tokens around', 'Use one of them'],
  ),
  'attention that is not there beside a memory': (
    {'model__memory': 'together', 'model__memory__first': 'xlcache'}
    | {'model__memory__second': 'gateddelta'},
    ['model.memory = together', 'attend to nothing', 'Give it a gate'],
  ),
  'memory tokens behind a window': (
    {'model__memory': 'together', 'model__memory__first': 'tokens'}
    | {'model__memory__second': 'xlcache'}
    | {'model__memory__second__length': '3'}
    | {'model__memory__second__same_length': 'true'},
    ['model.memory = tokens', 'model.pattern=causal'],
  ),
  'more neighbours than slots': (
    {'model__memory': 'retrieval', 'model__memory__slots': '8'},
    ['model.memory.neighbours = 32', 'model.memory.slots = 8'],
  ),
  'no such cell': (
    {'model__memory': 'statecell', 'model__memory__cell': 'triple'},
    ['model.memory.cell = triple', 'Dual, Single, Skip'],
  ),
  'a gate out of reach': (
    {'model__memory': 'infini', 'model__memory__gate': 'headgate'}
    | {'model__memory__gate__start': '50'},
    ['model.memory.gate.start = 50', 'from -20 to 20'],
  ),
  'queries that are not normed': (
    {'model__memory': 'statecell', 'model__heads__norm': 'rmsnorm'},
    ['model.heads.norm', 'model.memory = statecell', 'Use one of the two'],
  ),
  'keys ahead of as many keys back for every query': (
    {'model__memory': 'xlcache', 'model__memory__same_length': 'true'}
    | {'model__pattern': 'everything'},
    ['model.memory.same_length', 'looks ahead', 'Turn same_length off'],
  ),
  'more at once than a memory holds': (
    {'model__memory': 'compressive', 'model__memory__compressed': '1'},
    ['data.segment = 8', 'model.memory.compressed = 1'],
  ),
  'more at once than a long memory holds': (
    {'model__memory': 'melodi', 'model__memory__long': 'longmemory'}
    | {'model__memory__long__slots': '31'},
    ['model.memory.long.step = 32', 'model.memory.long.slots = 31'],
  ),
  'a stretch below one': (
    {'model__position': 'rope', 'model__position__stretch': 'linear'}
    | {'model__position__stretch__factor': '0.5'},
    ['model.position.stretch.factor = 0.5', 'at least 1'],
  ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_it_is_refused_with_the_field_and_a_way_out(case):
  overrides, words = REFUSED[case]
  with pytest.raises(ValueError) as refused:
    settings(**overrides)
  assert all(word in str(refused.value) for word in words), refused.value


def test_a_memory_that_reads_one_way_is_refused_where_queries_look_ahead():
  model = settings().model
  for memory in (GatedDelta(), SinkCache(8), Compressive()):
    with pytest.raises(ValueError, match=r'model\.pattern = .*[Uu]se'):
      dataclasses.replace(
        model, pattern=Everything(), position=NoPosition(), memory=memory
      )


@pytest.mark.parametrize(
  'memory',
  [
    'associative',
    'compressive',
    'denseretrieval',
    'gateddelta',
    'gatedlinear',
    'infini',
    'melodi',
    'retrieval',
    'sinkcache',
    'statecell',
    'tokens',
    'xlcache',
  ],
)
def test_another_memory_is_one_line(memory):
  model = settings(model__memory=memory, data__segment='128').model
  assert model.remembers
  assert type(model.memory).__name__.lower() == memory


def test_what_is_evaluated_with_another_cache_is_every_cache_of_a_model():
  config = settings(
    model__memory='onlayers',
    model__memory__layers='(1,)',
    model__memory__memory='together',
    model__memory__memory__first='xlcache',
    model__memory__memory__second='infini',
    model__memory__others='xlcache',
    eval__memory='24',
  )
  memory = config.eval.model(config.model).memory
  assert memory == OnLayers((1,), Together(XLCache(24), Infini()), XLCache(24))
  with pytest.raises(ValueError, match=r'eval\.memory = 24 .* has no length'):
    config.eval.model(settings(model__memory='infini').model)


def test_every_part_is_a_line_on_the_command_line():
  for position in ('noposition', 'sinusoidal', 'alibi', 't5bias', 'rope'):
    model = settings(model__position=position).model
    assert type(model.position).__name__.lower() == position
  for norm in ('layernorm', 'rmsnorm'):
    assert settings(model__heads__norm=norm).model.heads.norm is not None
  either = settings(
    model__pattern='either',
    model__pattern__first='window',
    model__pattern__first__before='3',
    model__pattern__second='sinks',
    model__pattern__second__count='2',
  )
  assert str(either.model.pattern).startswith('Either(first=Window(before=3')
