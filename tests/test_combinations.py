"""Parts that cannot work together are refused when the config is built."""

import pytest

from lctx import presets
from lctx.config import Config, override
from lctx.data import Bytes, Lanes, Stdlib
from lctx.optimizer import Adam


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
