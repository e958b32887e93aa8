"""The command line: what is an override, and whose mistake it was."""

import os
import subprocess
import sys

import pytest

from lctx.command import take_overrides
from lctx.errors import UserError, checking, writable


def test_overrides_are_taken_out_and_all_else_is_left():
  found, rest = take_overrides(
    [
      'train.py',
      '--config=a.py:x',
      '--config.data.rows=8',
      '-config.seed',
      '-1',
      '--config.data.corpus.path',
      'a=b',
      '--config.model.memory.same_length',
      '--noconfig.profile',
      '--config.log.wandb=',
      '--workdir',
      'runs/x',
    ]
  )
  assert found == {
    'data.rows': '8',
    'seed': '-1',
    'data.corpus.path': 'a=b',
    'model.memory.same_length': True,
    'profile': False,
    'log.wandb': '',
  }
  assert rest == ['train.py', '--config=a.py:x', '--workdir', 'runs/x']


def test_the_last_of_two_overrides_counts():
  assert take_overrides(['--config.a=1', '--config.a=2'])[0] == {'a': '2'}


def test_no_and_a_value_contradict_each_other():
  with pytest.raises(UserError, match=r'--config\.a=1'):
    take_overrides(['--noconfig.a=1'])


def test_only_what_is_checked_counts_as_a_mistake_of_the_user():
  with pytest.raises(UserError, match='rows'), checking():
    raise ValueError('rows')
  with pytest.raises(UserError, match='nowhere'), checking():
    os.stat('nowhere/at/all')
  with pytest.raises(ZeroDivisionError), checking():
    _ = 1 // 0


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='workdir'):
    writable(tmp_path / 'file' / 'run')
  assert writable(tmp_path / 'a' / 'b').is_dir()


@pytest.mark.parametrize(
  'raised, code, shown',
  [
    ('errors.UserError("two\\n lines")', 2, 'lctx: error: two lines\n'),
    ('KeyboardInterrupt', 130, ''),
    ('ValueError("ours")', 1, 'Traceback'),
    ('AssertionError("ours")', 1, 'Traceback'),
  ],
)
def test_our_own_mistakes_keep_their_traceback(raised, code, shown):
  program = (
    'from lctx import command, errors\n'
    f'def main(overrides): raise {raised}\n'
    'command.run(main)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', program],
    env={**os.environ, 'PYTHONPATH': os.getcwd()},
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == code
  assert shown in done.stderr
  assert ('Traceback' in done.stderr) == (code == 1)
