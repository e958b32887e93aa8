"""Configs: files in, JSON and back, and every shipped part on the way."""

import dataclasses
from pathlib import Path

import pytest

from lctx import presets
from lctx.config import Config, load, override, read, save
from lctx.data import (
  Bytes,
  JsonLines,
  Lanes,
  Mixture,
  Stdlib,
  Text,
  Words,
)
from lctx.errors import UserError
from lctx.fields import arms_of, check, defaults_of, fields_of, options_of
from lctx.memory.base import Memory
from lctx.memory.xl import XLCache
from lctx.optimizer import Adam, Linear, Lion, Muon
from lctx.overrides import from_json, to_json
from lctx.positions.xl import LearnedRelative

SHIPPED = sorted(Path(__file__).parent.parent.glob('configs/*.py'))

FILE = """
from lctx import presets
from lctx.config import Config
from lctx.data import Bytes, Lanes, Stdlib
from lctx.optimizer import Adam

def get_config(arg=None):
  return Config(
    model=presets.transformer_xl(2, 16, num_heads=2, memory_length=8),
    data=Lanes(Stdlib(), Bytes(), rows=4, segment=8),
    optimizer=Adam(peak=1e-3, decay=float(arg or 0)),
  )
"""


@pytest.fixture
def config():
  return Config(
    model=presets.transformer_xl(2, 16, num_heads=2, memory_length=8),
    data=Lanes(Stdlib(), Bytes(), rows=4, segment=8),
    optimizer=Adam(peak=1e-3),
  )


@pytest.fixture
def write(tmp_path):
  def file(text):
    path = tmp_path / 'config.py'
    path.write_text(text)
    return str(path)

  return file


def test_a_file_gives_what_it_builds(config, write):
  assert load(write(FILE)) == config


def test_what_follows_the_colon_is_the_argument(config, write):
  assert load(write(FILE) + ':0.5') == dataclasses.replace(
    config, optimizer=Adam(peak=1e-3, decay=0.5)
  )


@pytest.mark.parametrize(
  'overrides, field, part',
  [
    (
      {'model.stack.num_heads': '8', 'model.stack.depth': '3'},
      'model',
      presets.transformer_xl(3, 16, num_heads=8, memory_length=8),
    ),
    (
      {
        'data.tokenizer': 'words',
        'data.corpus': 'text',
        'data.corpus.path': 'x',
      },
      'data',
      Lanes(Text('x'), Words(), rows=4, segment=8),
    ),
    (
      {
        'data.corpus': 'mixture',
        'data.corpus.parts': 'stdlib,text',
        'data.corpus.parts.1.path': 'x',
        'data.corpus.parts.1.damaged': 'skip',
        'data.corpus.weights': '1,2',
      },
      'data',
      Lanes(
        Mixture((Stdlib(), Text('x', damaged='skip')), (1.0, 2.0)),
        Bytes(),
        rows=4,
        segment=8,
      ),
    ),
    (
      {
        'data.corpus': 'jsonlines',
        'data.corpus.path': 'x',
        'data.corpus.damaged': 'skip',
      },
      'data',
      Lanes(JsonLines('x', damaged='skip'), Bytes(), rows=4, segment=8),
    ),
    (
      {'optimizer': 'muon', 'optimizer.schedule': 'linear'},
      'optimizer',
      Muon(schedule=Linear()),
    ),
    ({'seed': '7'}, 'seed', 7),
    ({'profile': True}, 'profile', True),
  ],
)
def test_overrides_equal_building_directly(config, overrides, field, part):
  expected = dataclasses.replace(config, **{field: part})
  assert override(config, overrides) == expected


def test_the_parts_of_a_model_are_switched_by_name(config):
  model = config.model
  switched = override(
    config,
    {
      'model.memory': 'memory',
      'model.position': 'learnedrelative',
      'model.position.length': '16',
    },
  ).model
  assert switched.memory == Memory() and model.memory == XLCache(8)
  assert switched.position == LearnedRelative(16)
  assert switched.stack == model.stack


ALONE = [
  path for path in SHIPPED if path.stem != 'published'
]  # without a model


@pytest.mark.parametrize('path', ALONE, ids=lambda path: path.stem)
def test_a_shipped_config_survives_json(path):
  config = load(path)
  assert from_json(to_json(config), Config) == config


@pytest.mark.parametrize('path', ALONE, ids=lambda path: path.stem)
def test_giving_every_field_what_it_holds_changes_nothing(path):
  config = load(path)
  assert override(config, dict(_leaves(config, Config, ''))) == config


def test_every_part_a_config_can_hold_survives_json():
  parts = _parts(Config, set())
  assert {XLCache, Text, Words, Lion, Muon} <= parts
  for cls in parts:
    if set(defaults_of(cls)) == set(fields_of(cls)):
      part = cls(**defaults_of(cls))
      check(part, cls, '')
      assert from_json(to_json(part), cls) == part


def test_a_folder_remembers_its_config(config, tmp_path):
  save(config, tmp_path)
  assert read(tmp_path) == config
  assert read(tmp_path, {'seed': '3'}).seed == 3
  assert [path.name for path in tmp_path.iterdir()] == ['config.json']


@pytest.mark.parametrize(
  'text, words',
  [
    ('def get_config(:', ['config.py, line 1', 'not Python']),
    ('\nimport nowhere', ['config.py, line 2', 'nowhere']),
    ('x = 1', ['defines no get_config']),
    ('def get_config(arg=None): return 3', ['returned int', 'Config']),
    (
      FILE.replace('rows=4', 'rows=0'),
      ['config.py, line 10', 'data.rows', 'at least 1'],
    ),
    (
      FILE.replace('rows=4', 'row=4'),
      ["unexpected keyword argument 'row'", 'Did you mean rows?'],
    ),
    (
      FILE.replace('num_heads', 'heads'),
      ["unexpected keyword argument 'heads'", 'Did you mean num_heads?'],
    ),
    (
      FILE.replace('length=8', 'length=8.5'),
      ['model.memory.length = 8.5', 'int'],
    ),
    (FILE.replace('num_heads=2', 'num_heads=3'), ['model.stack.num_heads']),
    (FILE.replace('rows=4', 'rows="4"'), ["Lanes.rows = '4' is not an int"]),
    (FILE.replace('1e-3', '"1e-3"'), ["Adam.peak = '1e-3' is not a finite"]),
    (FILE.replace('Stdlib()', '3'), ['data.corpus = 3', 'Text']),
    (
      FILE.replace('length=8', 'length=0, memory_dropout=0.5'),
      ['model.dropout.memory = 0.5', 'model.memory.length = 0'],
    ),
    (
      FILE.replace('length=8', 'length=8, tie_projections=(True,)'),
      ['model.embed.tie_projections = (True,)', 'nothing is projected'],
    ),
    (FILE.replace('Bytes()', '"bytes"'), ["data.tokenizer = 'bytes'", 'Words']),
    (FILE.replace('1e-3', 'float("nan")'), ['optimizer.peak']),
  ],
)
def test_a_mistake_in_a_file_is_named(write, text, words):
  with pytest.raises(UserError) as error:
    load(write(text))
  for word in words:
    assert word in str(error.value)


def test_a_model_of_a_wrong_type_is_named_where_a_config_is_built(config):
  with pytest.raises(ValueError, match="model = 'xl' is no part"):
    dataclasses.replace(config, model='xl')
  with pytest.raises(ValueError, match=r'model\.memory = 8 is no part'):
    dataclasses.replace(config.model, memory=8)


def test_a_failed_assertion_of_ours_is_not_a_mistake_of_the_user(write):
  with pytest.raises(AssertionError):
    load(write('def get_config(arg=None): assert False'))


def test_a_missing_file_suggests_the_nearest(write):
  path = write(FILE)
  with pytest.raises(UserError, match=r'Did you mean .*config\.py\?'):
    load(path.replace('config.py', 'confg.py'))


@pytest.mark.parametrize(
  'text, words',
  [
    (None, ['workdir', 'no config.json']),
    ('{"part": "Config"', ['config.json is damaged']),
    ('{}', ['config.json is damaged']),
    ('{"part": "Config", "sead": 1}', ['sead', 'Did you mean seed?']),
  ],
)
def test_a_folder_without_a_whole_config_is_refused(tmp_path, text, words):
  if text is not None:
    (tmp_path / 'config.json').write_text(text)
  with pytest.raises(UserError) as error:
    read(tmp_path)
  for word in words:
    assert word in str(error.value)


def _leaves(value, hint, path):
  """Each dotted path and its text, as a command line would give them."""
  if dataclasses.is_dataclass(value):
    if path and len(options_of(hint)) > 1:
      yield path, type(value).__name__
    for name, inner in fields_of(type(value)).items():
      below = f'{path}.{name}' if path else name
      yield from _leaves(getattr(value, name), inner, below)
  elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
    yield path, ','.join(type(part).__name__ for part in value)
    for index, part in enumerate(value):
      yield from _leaves(part, type(part), f'{path}.{index}')
  else:
    yield path, str(value)


def _parts(hint, seen):
  """Every class that some field below `hint` may hold."""
  inner = [cls for arm in arms_of(hint) for cls in options_of(arm).values()]
  for cls in inner:
    if cls not in seen:
      seen.add(cls)
      for field in fields_of(cls).values():
        _parts(field, seen)
  return seen
