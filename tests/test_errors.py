"""Each mistake of a user: one paragraph that names the field, and code 2."""

import programs
import pytest

from lctx.config import load, save

CONFIG = """
from lctx import presets
from lctx.config import Config
from lctx.data import Bytes, Lanes, Text
from lctx.optimizer import Adam


def get_config(arg=None):
  return Config(
    model=presets.transformer_xl(1, 8, num_heads=2, memory_length=4),
    data=Lanes(Text('TEXT'), Bytes(), rows=2, segment=8),
    optimizer=Adam(),
  )
"""


@pytest.fixture
def train(tmp_path):
  """Runs train.py on a small text: its exit code and what it says."""
  text = tmp_path / 'text.txt'
  text.write_text('The quick brown fox jumps over the lazy dog.\n' * 40)
  (tmp_path / 'empty.txt').write_text('')
  (tmp_path / 'short.txt').write_text('Too short.\n')
  (tmp_path / 'latin.txt').write_bytes(b'plain\n' * 20 + b'caf\xe9\n' * 20)
  (tmp_path / 'small.py').write_text(CONFIG.replace('TEXT', str(text)))
  (tmp_path / 'broken.py').write_text(CONFIG + '\nrows = eight\n')
  typed = (tmp_path / 'small.py').read_text().replace('rows=2', "rows='2'")
  (tmp_path / 'typed.py').write_text(typed)
  (tmp_path / 'logged' / 'metrics.jsonl').mkdir(parents=True)
  (tmp_path / 'named').mkdir()
  for split, content in NAMED.items():
    (tmp_path / 'named' / f'{split}.txt').write_text(content)

  def run(*arguments, program='train.py'):
    filled = [argument.replace('TMP', str(tmp_path)) for argument in arguments]
    return programs.done(program, *filled)

  return run


NAMED = {'train': 'a text\n' * 99, 'valid': '\n' * 9, 'test': 'a text\n' * 9}
SMALL, WORKDIR = '--config=TMP/small.py', '--workdir=TMP/run'

MISTAKES = {
  'an unknown name': (
    [SMALL, WORKDIR, '--config.data.rowz=4'],
    ['data.rowz', 'Did you mean data.rows?'],
  ),
  'a wrong type': (
    [SMALL, WORKDIR, '--config.data.rows=four'],
    ["data.rows = 'four'", 'an int'],
  ),
  'a number that is not finite': (
    [SMALL, WORKDIR, '--config.optimizer.peak=nan'],
    ['optimizer.peak', 'finite'],
  ),
  'heads that do not divide': (
    [SMALL, WORKDIR, '--config.model.stack.num_heads=3'],
    ['model.stack.num_heads = 3', 'model.embed.width = 8'],
  ),
  'a missing config': (
    ['--config=TMP/smal.py', WORKDIR],
    ['smal.py', 'Did you mean', 'small.py'],
  ),
  'a broken config': (
    ['--config=TMP/broken.py', WORKDIR],
    ['broken.py, line', "name 'eight' is not defined"],
  ),
  'a missing corpus': (
    [SMALL, WORKDIR, '--config.data.corpus.path=TMP/nowhere.txt'],
    ['data.corpus.path', 'nowhere.txt'],
  ),
  'an empty corpus': (
    [SMALL, WORKDIR, '--config.data.corpus.path=TMP/empty.txt'],
    ['data.corpus', 'empty'],
  ),
  'a corpus shorter than the lanes need': (
    [SMALL, WORKDIR, '--config.data.rows=4000'],
    ['data.rows', '4000'],
  ),
  'bytes that are not UTF-8, for SentencePiece': (
    [
      SMALL,
      WORKDIR,
      '--config.data.corpus.path=TMP/latin.txt',
      '--config.data.tokenizer=sentencepiece',
      '--config.data.tokenizer.vocab_size=300',
    ],
    ['latin.txt', 'UTF-8', 'data.tokenizer', 'data.corpus.damaged=skip'],
  ),
  'a choice for damaged texts that is none': (
    [SMALL, WORKDIR, '--config.data.corpus.damaged=drop'],
    ["data.corpus.damaged='drop'", "'skip'"],
  ),
  'a vocabulary too small': (
    [SMALL, WORKDIR, '--config.model.embed.vocab=20'],
    ['model.embed.vocab = 20', 'too small'],
  ),
  'a workdir that cannot be written': (
    [SMALL, '--workdir=TMP/empty.txt/run'],
    ['workdir', 'empty.txt/run'],
  ),
  'an unknown flag': (
    [SMALL, '--workdri=TMP/run'],
    ['--workdri', 'Did you mean --workdir?'],
  ),
  'no workdir': ([SMALL], ['--workdir=... is missing']),
  'an empty workdir': ([SMALL, '--workdir='], ['--workdir=... is missing']),
  'an empty config': (['--config=', WORKDIR], ['--config=... is missing']),
  'a package that is missing': (
    [SMALL, WORKDIR, '--config.log.wandb=project'],
    ['log.wandb', "'lctx[wandb]'"],
  ),
  'a log that cannot be written': (
    [SMALL, '--workdir=TMP/logged'],
    ['metrics.jsonl'],
  ),
  'a wrong type in a config file': (
    ['--config=TMP/typed.py', WORKDIR],
    ['typed.py, line', "Lanes.rows = '2'", 'an int'],
  ),
  'memory dropped where there is none': (
    [
      SMALL,
      WORKDIR,
      '--config.model.memory.length=0',
      '--config.model.dropout.memory=0.25',
    ],
    ['model.dropout.memory = 0.25', 'model.memory.length = 0'],
  ),
  'nothing to predict in validation': (
    [
      SMALL,
      WORKDIR,
      '--config.data.corpus.path=TMP/named',
      '--config.data.corpus.split=byname',
      '--config.data.tokenizer=publishedbytes',
    ],
    ['validation split', 'checkpoint.metric'],
  ),
}


def test_a_log_that_cannot_be_had_is_told_before_anything_compiles(
  train, tmp_path
):
  train(SMALL, WORKDIR, '--config.log.wandb=project')
  assert not (tmp_path / 'run' / 'config.json').exists()


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_ends_with_one_paragraph(train, mistake):
  arguments, words = MISTAKES[mistake]
  assert_one_paragraph(train(*arguments), words)


def test_evaluating_where_nothing_was_trained_ends_with_one_paragraph(train):
  done = train(WORKDIR, '--config.eval.segment=8', program='eval.py')
  assert_one_paragraph(done, ['workdir', 'config.json'])


def test_evaluation_refuses_what_training_decided(train, tmp_path):
  path = str(tmp_path / 'small.py')
  save(load(path), tmp_path)
  done = train('--workdir=TMP', '--config.seed=3', program='eval.py')
  assert_one_paragraph(done, ['--config.seed', '--config.eval'])


def test_evaluation_names_its_own_fields(train, tmp_path):
  save(load(str(tmp_path / 'small.py')), tmp_path)
  for flag in ('--config.eval.memory=-1', '--config.eval.same_length=true'):
    more = ['--config.eval.memory=0'] if 'same' in flag else []
    done = train('--workdir=TMP', flag, *more, program='eval.py')
    assert_one_paragraph(done, [flag[9:].split('=')[0]])


def test_a_config_that_is_no_config_is_damaged(train, tmp_path):
  (tmp_path / 'config.json').write_text('[]')
  done = train('--workdir=TMP', program='eval.py')
  assert_one_paragraph(done, ['config.json is damaged'])


def assert_one_paragraph(done, words):
  said = done.stderr.strip()
  assert done.returncode == 2, said
  assert 'Traceback' not in said + done.stdout
  paragraph = said.splitlines()[-1]
  assert paragraph.startswith('lctx: error: ')
  assert 'Error' not in said.replace(paragraph, '')
  for word in words:
    assert word in paragraph
