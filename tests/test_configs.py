"""The shipped configs: what they claim, what they are, and that they train."""

import ast
import math
import re
from pathlib import Path

import jax
import pytest

import lctx
from lctx import data
from lctx.config import load
from lctx.errors import UserError
from lctx.prepared import prepared
from lctx.training.step import make_step

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(ROOT.glob('configs/*.py'))
pytestmark = pytest.mark.usefixtures('one_device')
NAMED = pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
# `objectives` and `published` make several models: test_objective_runs.py and
# test_published.py train them.
ONE = pytest.mark.parametrize(
  'path',
  [path for path in SHIPPED if path.stem not in ('objectives', 'published')],
  ids=lambda path: path.stem,
)

# Of the published PyTorch scripts, with the vocabularies of their data sets.
PUBLISHED = {
  'enwik8_base': (204, 41_055_436),
  'enwik8_large': (204, 277_231_820),
  'text8_base': (27, 40_964_635),
  'wt103_base': (267_735, 151_107_538),
  'wt103_large': (267_735, 285_170_506),
  'lm1b_base': (793_471, 357_812_082),
  'lm1b_large': (793_471, 841_295_982),
}


def count(name, vocab):
  model = load(ROOT / f'configs/{name}.py').model.with_vocabulary(vocab)
  params = jax.eval_shape(model.init_params, jax.random.key(0))
  return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize('name', PUBLISHED)
def test_it_has_as_many_parameters_as_the_published_model(name):
  vocab, parameters = PUBLISHED[name]
  assert count(name, vocab) == parameters


def test_the_released_weights_have_biases_of_every_layer():
  """The published code has one pair u, v: 2 x 16 x 64; the release has 18."""
  assert count('wt103_large_eval', 267_735) == 285_170_506 + 17 * 2 * 16 * 64


@NAMED
def test_it_opens_with_its_claim_and_its_own_command(path):
  text = ast.get_docstring(ast.parse(path.read_text()))
  assert re.search(r'^Claim: \S', text, re.MULTILINE)
  command = re.search(r'^Run\b.*:([\s\S]+)', text, re.MULTILINE)
  assert f'--config=configs/{path.name}' in command[1]
  assert len(path.read_text().splitlines()) <= 60


@NAMED
def test_its_commands_name_programs_that_are_there(path):
  text = ast.get_docstring(ast.parse(path.read_text()))
  programs = re.findall(r'python (?:(-m) )?([\w./]+)', text)
  assert programs
  for module, name in programs:
    file = name.replace('.', '/') if module else name
    places = [ROOT / file, ROOT / f'{file}.py', ROOT / file / '__main__.py']
    assert any(place.is_file() for place in places), name


@ONE
def test_its_model_can_do_what_its_evaluation_asks(path):
  config = load(path)
  model = config.eval.model(config.model)
  wanted = config.eval.memory
  assert wanted is None or model.memory.length == wanted
  assert config.checkpoint.every <= config.train.steps


@ONE
def test_it_reads_a_text_and_its_step_keeps_the_state(path, tmp_path, small):
  run = prepared(load(path, small(load(path))), tmp_path / 'run')
  config, batch = run.config, run.config.data.batch(run.train, run.codec, 0)
  assert run.model.embed.vocab == run.codec.size > batch.tokens.max()
  step = make_step(run.model, run.transform, config.train, config.data.segment)
  state, metrics = jax.eval_shape(step, run.abstract, batch)
  described = [
    [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
    for tree in (state, run.abstract)
  ]
  assert described[0] == described[1]
  assert metrics['loss'].dtype == 'float32'


@pytest.mark.parametrize('name', ['lm1b_base', 'pg19_base'])
def test_it_trains_and_closes_with_its_evaluation(name, tmp_path, small):
  path = ROOT / f'configs/{name}.py'
  result = lctx.train(load(path, small(load(path))), tmp_path / 'run')
  uniform = math.log2(lctx.load(tmp_path / 'run').codec.size)
  assert 0.5 * uniform < result.units.bits_per_token < 1.1 * uniform


def test_a_config_of_a_missing_text_says_where_it_looked(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = load(ROOT / 'configs/enwik8_base.py')
  with pytest.raises(UserError, match=r'data\.corpus\.path=data/enwik8\.zip'):
    prepared(config, tmp_path)


def test_an_argument_takes_the_place_of_the_text():
  config = load(f'{ROOT}/configs/novel.py:books/*.txt')
  assert config.data.corpus == data.Text('books/*.txt')
  config = load(f'{ROOT}/configs/pg19_base.py:books.model')
  assert config.data.tokenizer == data.SentencePiece(path='books.model')
  memory = load(f'{ROOT}/configs/quickstart.py:no_memory').model.memory
  assert memory.length == 0


@pytest.fixture
def small(tmp_path):
  """Overrides that leave a config its kinds of parts, at a tiny size."""
  folder, listed = tmp_path / 'text', tmp_path / 'words.txt'
  folder.mkdir()
  for split, count in (('train', 60), ('valid', 9), ('test', 9)):
    text = ''.join(f'line {i} has a word and an end\n' for i in range(count))
    (folder / f'wiki.{split}.tokens').write_text(text)
  words = ['<S>', '<UNK>', 'line', 'has', 'a', 'word', *map(str, range(60))]
  listed.write_text('\n'.join(words) + '\n')

  def overrides(config):
    cuts = len(config.model.embed.cutoffs)
    given = {
      'model.embed.width': '16',
      'model.stack.depth': '1',
      'model.stack.num_heads': '2',
      'model.stack.head_width': '8',
      'model.stack.ffn_width': '16',
      'model.memory.length': '8' if config.model.memory.length else '0',
      'model.embed.cutoffs': str(tuple(range(8, 8 + 8 * cuts, 8))),
      'model.embed.div_val': str(min(2, config.model.embed.div_val)),
      'data.corpus': 'text',
      'data.corpus.path': str(folder),
      'data.corpus.split': 'byname',
      'data.rows': '8',
      'data.segment': '8',
      'train.steps': '2',
      'eval.segment': '8',
      'eval.memory': '8' if config.model.memory.length else '0',
      'eval.rows': '2',
    }
    tokenizer = config.data.tokenizer
    if isinstance(tokenizer, data.SentencePiece):
      given['data.tokenizer.vocab_size'] = '280'
    if isinstance(tokenizer, data.Words) and tokenizer.path:
      given['data.tokenizer.path'] = str(listed)
    return given

  return overrides
