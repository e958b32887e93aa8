"""Stopped and started again is the same as never stopped, to the last bit.

One run through the real command line is never stopped. Another is killed,
then stopped by signals at bad moments, and goes on each time by the same
command. Both end with equal parameters, moments, memory, keys and logs.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import tiny

import lctx
from lctx.checkpoint import CheckpointStore
from lctx.config import load
from lctx.run import prepared

ROOT = Path(__file__).parent.parent
STEPS, EVERY, VALIDATE = 320, 40, 160
TIMINGS = {'tokens_per_second', 'step_seconds', 'data_seconds', 'utilisation'}

# Everything that is random, averaged or carried is on: cached states, and
# float32 matrices. Each step is logged.
CONFIG = f"""
import dataclasses

from lctx import (
  Adam, Bytes, Checkpoints, Config, Evaluation, Lanes, Logging, Text, Training,
  presets,
)
from lctx.memory import Infini, Together


def get_config(arg=None):
  model = presets.transformer_xl(
    1, 16, num_heads=2, memory_length=8, ffn_width=16, dropout=0.1,
    attention_dropout=0.1, memory_dropout=0.25,
  )
  memory = Together(model.memory, Infini(delta=True))
  return Config(
    model=dataclasses.replace(model, memory=memory),
    data=Lanes(Text('TEXT'), Bytes(), rows=16, segment=8, segments=2),
    optimizer=Adam(peak=3e-3),
    train=Training(
      steps={STEPS}, accumulate=2, ema=0.99, eval_every={VALIDATE},
      valid_tokens=4000,
    ),
    eval=Evaluation(rows=2, tokens=2000, compare=False),
    checkpoint=Checkpoints(every={EVERY}, keep_last=2),
    log=Logging(every=1),
    seed=3,
  )
"""


class Done(NamedTuple):
  code: int
  said: str


class Command:
  """`python train.py --config=... --workdir=...`, under way."""

  def __init__(self, config: Path, workdir: Path, *overrides: str):
    self.workdir = workdir
    self._said = workdir.with_suffix('.txt').open('w+')
    environment = {
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': tiny.QUICK,
      'JAX_COMPILATION_CACHE_DIR': str(config.parent / 'compiled'),
    }
    program = [sys.executable, 'train.py']
    self._process = subprocess.Popen(
      [*program, f'--config={config}', f'--workdir={workdir}', *overrides],
      cwd=ROOT,
      env=os.environ | environment,
      stdout=self._said,
      stderr=subprocess.STDOUT,
    )

  def signal_when(self, happened, number: int) -> Done:
    """Sends a signal as soon as `happened(self)`; what it says in the end."""
    self.wait_until(happened)
    self._process.send_signal(number)
    return self.end()

  def wait_until(self, happened) -> None:
    until = time.monotonic() + 200
    while not happened(self):
      assert self._process.poll() is None, self.end().said
      assert time.monotonic() < until, 'it takes too long'
      time.sleep(0.005)

  def end(self) -> Done:
    try:
      code = self._process.wait(timeout=200)
    finally:
      self._process.kill()
    self._said.seek(0)
    with self._said:
      return Done(code, self._said.read())

  def saved(self, step: int) -> bool:
    return (self.workdir / 'checkpoints' / str(step)).is_dir()

  def logged(self, step: int) -> bool:
    """By this process: the log ends where it goes on once that is said."""
    path = self.workdir / 'metrics.jsonl'
    if ' parameters on ' not in self.workdir.with_suffix('.txt').read_text():
      return False
    return f'{{"step": {step}, ' in path.read_text()


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  folder = tmp_path_factory.mktemp('resume')
  random = np.random.default_rng(0)
  words = np.array(['the ', 'memory ', 'of ', 'a ', 'long ', 'text.\n'])
  text = ''.join(words[random.integers(0, len(words), 40_000)])
  (folder / 'text.txt').write_text(text)
  path = folder / 'small.py'
  path.write_text(CONFIG.replace('TEXT', str(folder / 'text.txt')))
  return path


@pytest.fixture(scope='module')
def runs(config):
  """The folder never stopped; the one often stopped, and what it said."""
  whole, often = config.parent / 'whole', config.parent / 'often'
  uninterrupted = Command(config, whole)
  uninterrupted.wait_until(lambda c: c.logged(1))  # others find it compiled
  stages = {}
  for name, happened, number in (
    ('killed', lambda c: c.saved(EVERY), signal.SIGKILL),
    ('terminated', lambda c: c.logged(70), signal.SIGTERM),
    (
      'terminated while it validates',
      lambda c: c.logged(VALIDATE),
      signal.SIGTERM,
    ),
    ('interrupted from the keyboard', lambda c: c.logged(230), signal.SIGINT),
  ):
    stages[name] = Command(config, often).signal_when(happened, number)
  stages['ended'] = Command(config, often).end()
  done = uninterrupted.end()
  assert done.code == 0, done.said
  return whole, often, stages


@pytest.fixture
def copy(runs, tmp_path):
  """The folder never stopped, to do with as one likes."""
  return Path(shutil.copytree(runs[0], tmp_path / 'copy'))


def restored(config: Path, folder: Path, step: int | None = None):
  """On eight devices, where it was written by one."""
  run = prepared(load(config), folder)
  path = folder / 'checkpoints'
  with CheckpointStore(path, run.config.checkpoint) as store:
    return store.restore(run.abstract, step)


def assert_same_end(config, folder, other):
  one, two = restored(config, folder), restored(config, other)
  assert one.step == two.step == STEPS
  assert one.meta == two.meta
  assert jax.tree.structure(one.state) == jax.tree.structure(two.state)
  leaves = [jax.tree.leaves(x.state) for x in (one, two)]
  for a, b in zip(*leaves):
    np.testing.assert_array_equal(bits(a), bits(b))
  assert records(folder) == records(other)
  assert (folder / 'eval.json').read_bytes() == (
    other / 'eval.json'
  ).read_bytes()


def bits(x):
  typed = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
  x = np.asarray(jax.random.key_data(x) if typed else x)
  return x.view(np.uint32) if x.dtype == np.float32 else x


def records(folder: Path) -> list[dict]:
  """metrics.jsonl, but for what a clock said."""
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [
    {k: v for k, v in json.loads(line).items() if k not in TIMINGS}
    for line in lines
  ]


def test_stopped_and_resumed_is_uninterrupted_bit_for_bit(config, runs):
  whole, often, stages = runs
  assert stages['ended'].code == 0, stages['ended'].said
  assert_same_end(config, often, whole)
  steps = [r['step'] for r in records(whole) if 'loss' in r]
  assert steps == list(range(1, STEPS + 1))
  assert [r['step'] for r in records(whole) if 'loss' not in r] == [
    VALIDATE,
    STEPS,
  ]


def test_after_kill_it_goes_on_from_a_whole_checkpoint(runs):
  _, _, stages = runs
  assert stages['killed'].code == -signal.SIGKILL
  said = stages['terminated'].said
  assert any(f'goes on from step {n * EVERY} ' in said for n in (1, 2))


STOPPED = [
  ('terminated', 'SIGTERM', 'terminated while it validates'),
  (
    'terminated while it validates',
    'SIGTERM',
    'interrupted from the keyboard',
  ),
  ('interrupted from the keyboard', 'SIGINT', 'ended'),
]


@pytest.mark.parametrize('stage, name, after', STOPPED)
def test_a_signal_saves_and_ends_well(runs, stage, name, after):
  _, _, stages = runs
  code, said = stages[stage]
  assert code == 0, said
  assert f'{name}: saving, then stopping' in said
  assert 'Traceback' not in said
  _, _, tail = said.partition('The same command goes on from step ')
  step = tail.split(',')[0]
  assert f'goes on from step {step} ' in stages[after].said


def test_a_signal_while_it_validates_saves_that_step(runs):
  _, _, stages = runs
  said = stages['terminated while it validates'].said
  assert f'Stopped at step {VALIDATE} of {STEPS}' in said
  assert f'step {VALIDATE}: validation' not in said
  assert (
    f'step {VALIDATE}: validation'
    in stages['interrupted from the keyboard'].said
  )


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(config, runs, copy):
  newest = copy / 'checkpoints' / str(STEPS)
  # In every file: of one, that byte may be of an index that was replaced.
  for path in (newest / 'state').glob('**/d/*'):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
  done = Command(config, copy).end()
  assert done.code == 0, done.said
  assert f'Checkpoint {newest} is skipped' in done.said
  assert f'goes on from step {STEPS - EVERY} ' in done.said
  assert_same_end(config, copy, runs[0])


def test_numbers_that_are_not_finite_end_with_a_paragraph(config, runs, copy):
  """And with the checkpoint before them as it was."""
  done = Command(
    config,
    copy,
    f'--config.train.steps={STEPS + 300}',
    '--config.train.max_skipped=4',
    '--config.optimizer.peak=1e38',
    '--config.checkpoint.every=1',
  ).end()
  assert done.code == 1, done.said
  assert 'Traceback' not in done.said
  assert 'had no finite loss and gradient: they changed no' in done.said
  paragraph = done.said.strip().splitlines()[-1]
  assert paragraph.startswith('lctx: error: 4 steps in a row')
  assert 'optimizer.peak' in paragraph
  assert f'The checkpoint of step {STEPS} is good' in paragraph
  last = records(copy)[-1]
  assert last['loss'] is None and last['skipped'] == 4
  one, two = (restored(config, x, STEPS).state for x in (runs[0], copy))
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
  again = Command(config, copy, f'--config.train.steps={STEPS + 5}').end()
  assert again.code == 0, again.said
  assert f'goes on from step {STEPS} ' in again.said
  last = [r for r in records(copy) if 'skipped' in r][-1]
  assert last['step'] > STEPS and last['skipped'] == 0


def test_a_signal_before_anything_is_worth_saving_says_so(config, tmp_path):
  done = Command(
    config,
    tmp_path / 'run',
    '--config.train.max_skipped=1000000',
    '--config.optimizer.peak=1e38',
    '--config.train.steps=1000000',
    '--config.checkpoint.every=1000000',
    '--config.train.eval_every=0',
  ).signal_when(lambda c: c.logged(5), signal.SIGTERM)
  assert done.code == 0, done.said
  assert 'The same command begins anew' in done.said


def test_another_model_is_refused_with_a_paragraph(config, copy):
  done = Command(config, copy, '--config.model.stack.num_heads=4').end()
  assert done.code == 2, done.said
  assert 'Traceback' not in done.said
  paragraph = done.said.strip().splitlines()[-1]
  assert paragraph.startswith('lctx: error: The checkpoint in this workdir is')
  assert 'model.stack.num_heads is 2 there and 4 here' in paragraph
  assert 'new workdir' in paragraph


OTHER_RUNS = {
  'another shape': (
    {'model.stack.depth': '2'},
    'model.stack.depth is 1 there and 2 here',
  ),
  'other lanes': ({'data.rows': '32'}, 'data.rows is 16 there and 32 here'),
  'another segment': (
    {'data.segment': '16'},
    'data.segment is 8 there and 16 here',
  ),
  'another tokenizer': (
    {'data.tokenizer': 'publishedbytes', 'model.embed.vocab': '256'},
    'tokenizer is ',
  ),
  'another optimizer': (
    {'optimizer': 'lion'},
    'optimizer is Adam there and Lion here',
  ),
  'another seed': ({'seed': '4'}, 'seed is 3 there and 4 here'),
  'no average': ({'train.ema': '0'}, 'train.ema is 0.99 there and 0.0 here'),
}


@pytest.mark.parametrize('other', OTHER_RUNS)
def test_a_checkpoint_of_another_run_is_refused(config, copy, other):
  overrides, words = OTHER_RUNS[other]
  before = sorted(copy.rglob('checkpoints/**'))
  with pytest.raises(lctx.UserError) as raised:
    lctx.train(load(config, overrides), copy)
  assert words in str(raised.value)
  assert '\n' not in str(raised.value)
  assert sorted(copy.rglob('checkpoints/**')) == before


def test_a_refused_run_leaves_the_tokenizer_as_it_was(config, copy):
  other = {'data.tokenizer': 'publishedbytes', 'model.embed.vocab': '256'}
  with pytest.raises(lctx.UserError, match='tokenizer is '):
    lctx.train(load(config, other), copy)
  assert lctx.load(copy).step == STEPS


def test_a_text_that_has_changed_is_refused(config, copy, tmp_path):
  text = (config.parent / 'text.txt').read_text()
  (tmp_path / 'text.txt').write_text(text + 'One more line.\n')
  made = load(config)
  corpus = dataclasses.replace(
    made.data.corpus, path=str(tmp_path / 'text.txt')
  )
  lanes = dataclasses.replace(made.data, corpus=corpus)
  with pytest.raises(lctx.UserError, match='text is '):
    lctx.train(dataclasses.replace(made, data=lanes), copy)
