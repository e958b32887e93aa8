"""Benchmarks time what they say, in turns, and their baseline is right."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import programs
import pytest

import lctx
from benchmarks import (
  cases,
  evaluation,
  portable_memory,
  ratios,
  timing,
  twins,
)
from benchmarks.windows import Windows
from lctx import Training, presets
from lctx.evaluation.score import Evaluation, Scorer

ROOT = Path(__file__).parent.parent


@pytest.fixture
def model():
  return presets.transformer_xl(2, 16, 2, 24, vocab=cases.VOCABULARY)


@pytest.fixture
def params(model):
  first = jax.jit(model.init_params)(jax.random.key(0))
  return jax.tree.map(lambda x: 5 * x, first)  # so that context matters


def test_calls_are_timed_in_turns_after_one_to_warm_up():
  order = []
  calls = {name: lambda name=name: order.append(name) for name in 'ab'}
  timing.interleaved(calls, rounds=3)
  assert ''.join(order) == 'ab' + 'ababab'


def test_a_time_is_the_median_of_its_rounds(monkeypatch):
  ticks = iter([0, 9, 0, 1, 0, 2])
  monkeypatch.setattr(timing.time, 'perf_counter', lambda: next(ticks))
  assert timing.interleaved({'a': lambda: 0}, rounds=3)['a'].wall == 2


def test_columns_of_a_table_line_up():
  text = timing.table(['', 'tokens/s'], [['short', 12345.6], ['longer', None]])
  assert text.splitlines() == [
    '        tokens/s',
    '------  --------',
    'short     12,346',
    'longer         -',
  ]


def score_in_segments(model, params, tokens, segment):
  text = cases.random_rows(*tokens)
  ((_, nats),) = Scorer(model, params, segment)([text])
  return text, nats['own']


def test_one_window_that_holds_all_is_memory_that_forgets_nothing(
  model, params, close
):
  text, want = score_in_segments(model, params, (3, 32), segment=8)
  windows = Windows(model, params, length=32, batch=2)
  close(windows.nats(text.tokens, text.targets, stride=4), want)


@pytest.mark.parametrize('stride', [1, 3, 5])
def test_windows_predict_each_token_from_the_window_that_ends_with_its_stride(
  stride, model, params, close
):
  length, rows = 8, cases.random_rows(2, 19)
  got = Windows(model, params, length, batch=4).nats(
    rows.tokens, rows.targets, stride
  )
  whole = Scorer(Evaluation(memory=0).model(model), params, length)
  for t in range(19):
    after = -(-max(0, t + 1 - length) // stride) * stride
    end = min(length + after, 19)
    cut = cases.random_rows(2, length)
    window = slice(end - length, end)
    cut.tokens[:] = rows.tokens[:, window]
    cut.targets[:] = rows.targets[:, window]
    ((_, nats),) = whole([cut])
    close(got[:, t], nats['own'][:, t - end])


def test_unrolled_segments_have_the_gradient_of_scanned_ones(model, close):
  case = cases.Case('tiny', model, rows=2, segment=4)
  variants = ratios.segment_scan(case)
  scanned, unrolled = (call() for call, _ in variants.values())
  jax.tree.map(lambda a, b: close(a, b), scanned, unrolled)


def test_both_carriers_that_are_timed_give_the_same_nats(model, params, close):
  rows, fast = cases.random_rows(2, 16), model.for_inference()
  scores = fast.scores(params, 4)
  _, slow = evaluation._reader(model, params, None, rows, 4)()
  _, nats = evaluation._reader(fast, params, scores, rows, 4)()
  close(nats, slow)


def test_a_step_of_a_case_trains_on_its_tokens(model):
  case = cases.Case('tiny', model, 2, 4, 2, Training(gradient_segments=1))
  call, about = cases.train_step(case)
  first = float(call()[1]['loss'])
  for _ in range(20):
    _, metrics = call()
  assert float(metrics['loss']) < first
  assert about['temporary_mib'] > 0 and about['compile_seconds'] > 0


def test_variants_are_compared_with_the_first():
  variants = {
    'quick': (lambda: None, {}),
    'slow': (lambda: sum(range(10**6)), {}),
  }
  found = ratios.measure(variants, rounds=3)
  assert found[0]['wall_ratio'] == 1
  assert found[1]['wall_ratio'] > 10


def run(module, *args):
  return programs.done(f'benchmarks.{module}', *args)


def test_without_a_gpu_its_benchmark_says_so_in_one_line(tmp_path):
  done = run('gpu_enwik8', '--data=none', f'--workdir={tmp_path}')
  assert done.returncode == 2 and 'needs a GPU' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.fixture
def loaded(model, params, tmp_path):
  """A model with many short documents to read, and one with other values."""
  random, text = np.random.default_rng(0), tmp_path / 'text'
  text.mkdir()
  for number in range(60):
    words = random.choice(['a ', 'long ', 'text '], size=60)
    (text / f'{number:02}.txt').write_text(''.join(words))
  corpus = lctx.Text(str(text), lctx.ByDocument(0.1, 0.5))
  lanes = lctx.Lanes(corpus, lctx.Bytes(), rows=2, segment=16)
  config = lctx.Config(model, lanes, lctx.Adam(), eval=Evaluation(rows=2))
  codec = lanes.tokenizer.fit(lanes.corpus, tmp_path / 'run')
  first = lctx.Loaded(model, params, codec, config, step=1)
  other = jax.tree.map(lambda x: x / 2, params)
  return first, dataclasses.replace(first, params=other)


def test_what_one_twin_gains_the_other_loses(loaded, tmp_path):
  first, other = loaded
  folder = tmp_path / 'run'
  same = twins.compared(first, first, folder, 10_000).past
  assert same.gain.value == same.gain.low == same.gain.high == 0
  one, two = (
    twins.compared(*pair, folder, 10_000).past
    for pair in ((first, other), (other, first))
  )
  assert one.tokens == two.tokens > 100
  assert one.gain.value == pytest.approx(-two.gain.value) != 0
  assert one.gain.low < one.gain.value < one.gain.high
  lines = twins.table(twins.compared(first, other, folder, 10_000)).split('\n')
  assert f'{one.gain.value:+.3f}' in lines[2]


def test_a_memory_has_one_size_whatever_was_read(loaded, tmp_path):
  first, _ = loaded
  short, long = (
    portable_memory.measured(first, b'a long text. ' * n, tmp_path)
    for n in (2, 40)
  )
  assert (short['tokens'], long['tokens']) == (27, 521)
  assert abs(short['file_bytes'] - long['file_bytes']) < 200  # of checksums


def test_a_missing_config_is_named(tmp_path):
  done = run('train_step', f'--config={tmp_path / "none.py"}')
  assert done.returncode == 2 and 'none.py' in done.stderr
  assert 'is not a file' in done.stderr and 'Traceback' not in done.stderr


def test_without_pytorch_the_comparison_with_it_says_what_to_install():
  hidden = 'import sys; sys.modules["torch"] = None; import runpy; '
  program = 'runpy.run_module("benchmarks.huggingface", run_name="__main__")'
  done = subprocess.run(
    [sys.executable, '-c', hidden + program],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 2 and 'torch==2.13.0' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.slow
def test_the_gpu_benchmark_records_bits_against_tokens_and_seconds(tmp_path):
  text = tmp_path / 'text'
  words = np.random.default_rng(0).choice([b'the ', b'cat ', b'sat\n'], 9000)
  text.write_bytes(b''.join(words))
  small = {
    'model.stack.depth': 1,
    'model.stack.ffn_width': 16,
    'model.embed.width': 16,
    'model.memory.length': 8,
    'data.rows': 2,
    'data.segment': 8,
    'train.steps': 12,
    'train.valid_tokens': 100,
    'eval.rows': 2,
    'eval.tokens': 200,
    'eval.memory': 8,
    'eval.clamp': 8,
    'eval.segment': 8,
  }
  workdir = tmp_path / 'run'
  flags = [f'--config.{name}={value}' for name, value in small.items()]
  paths = [f'--data={text}', f'--workdir={workdir}']
  done = run('gpu_enwik8', '--allow_cpu', *paths, *flags)
  assert done.returncode == 0, done.stderr
  lines = (workdir / 'speed.jsonl').read_text().splitlines()
  machine, *found = map(json.loads, lines)
  assert machine['jax'] == jax.__version__
  assert [record['tokens'] for record in found] == list(range(16, 193, 16))
  seconds = [record['seconds'] for record in found]
  assert all(a < b for a, b in itertools.pairwise(seconds))
  assert found[-1]['bits_per_character'] < found[0]['bits_per_character']
  assert (workdir / 'speed.png').stat().st_size > 1000
