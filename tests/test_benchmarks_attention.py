"""Attention is timed as it is computed: the same by all, within limits."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest
import tiny

from benchmarks import attention_report, attention_times
from benchmarks.attention_cells import KERNELS, Problem, program, refusal
from benchmarks.attention_scores import SCORES
from benchmarks.attention_times import Limits, measure, predicted
from lctx.patterns import Causal, Window
from lctx.positions.sinusoid import sinusoid

SIZES = {'heads': 2, 'width': 8, 'rows': 2}
ENOUGH = Limits(memory=2**40, seconds=1e9)
SOME = {name: KERNELS[name] for name in ('dense', 'chunked')}


DENSE = {'dense': KERNELS['dense']}


@pytest.fixture(scope='module')
def problem():
  return Problem(24, 'xl', Causal(), **SIZES)


@pytest.fixture(scope='module')
def records(problem):
  return measure(problem, DENSE, ENOUGH)


@pytest.mark.parametrize(
  'score, pattern',
  [*((name, Window(6)) for name in SCORES), ('none', Causal())],
)
def test_all_that_are_compared_compute_the_same(score, pattern, close):
  problem = Problem(24, score, pattern, **SIZES)
  inputs = problem.inputs()
  outputs = {
    name: tiny.quick_jit(program(problem, kernel, 'forward'))(inputs)
    for name, kernel in KERNELS.items()
    if refusal(problem, kernel) is None
  }
  assert {'dense', 'chunked'} <= set(outputs)
  assert ('jax.nn' in outputs) == (score in ('none', 'rope'))
  for name, y in outputs.items():
    close(y, outputs['dense'])
    jax.eval_shape(program(problem, KERNELS[name], 'both'), inputs)


def test_a_score_that_moves_logits_changes_the_output():
  def output(score):
    problem = Problem(80, score, Causal(), **SIZES)
    step = tiny.quick_jit(program(problem, KERNELS['dense'], 'forward'))
    return step(problem.inputs())

  plain = output('none')
  for score in set(SCORES) - {'none'}:
    assert np.abs(output(score) - plain).max() > 1e-4, score


def test_sums_of_angles_make_the_relative_term(problem, close):
  def output(score, given):
    step = program(dataclasses.replace(problem, score=score), dense, 'forward')
    return tiny.quick_jit(step)({**inputs, 'learned': given})

  dense, width = KERNELS['dense'], problem.sizes.width
  inputs = dataclasses.replace(problem, score='xl-angles').inputs()
  learned = dict(inputs['learned'])
  kernel_DNH = learned['relative'] / width**0.5
  sinusoid_PD = sinusoid(jnp.arange(problem.length), width)
  by_keys = learned | {'r': jnp.einsum('pd,dnh->pnh', sinusoid_PD, kernel_DNH)}
  del by_keys['relative']
  close(output('xl-angles', learned), output('xl', by_keys))


def test_gradients_reach_what_is_learned(problem):
  def learned(score):
    one = Problem(24, score, Causal(), **SIZES)
    step = program(one, KERNELS['dense'], 'both')
    _, grads = jax.eval_shape(step, jax.eval_shape(one.inputs))
    return set(grads) - {'q', 'k', 'v'}

  assert {score: learned(score) for score in SCORES} == {
    'none': set(),
    'xl': {'r', 'u', 'w'},
    'xl-angles': {'relative', 'u', 'w'},
    'alibi': set(),
    't5': {'relative_bias'},
    'rope': set(),
    'cap': set(),
    'span': {'span'},
  }


def test_memory_is_that_of_the_compiled_program(problem, records):
  shapes = jax.eval_shape(problem.inputs)
  assert len(records) == 2
  for record in records:
    step = program(problem, KERNELS[record['kernel']], record['way'])
    memory = jax.jit(step).lower(shapes).compile().memory_analysis()
    assert record['temporary_mib'] == memory.temp_size_in_bytes / 2**20 > 0
    assert record['compile_seconds'] > 0


def test_ratios_are_of_calls_in_the_same_turns(problem, monkeypatch):
  turns, interleaved = [], attention_times.timing.interleaved

  def noted(calls, rounds):
    turns.append(list(calls))
    return interleaved(calls, rounds)

  monkeypatch.setattr(attention_times.timing, 'interleaved', noted)
  records = measure(problem, SOME, ENOUGH)
  ways = [(record['kernel'], record['way']) for record in records]
  assert turns == [ways] and len(set(ways)) == 4
  seconds = {w: r['seconds'] for w, r in zip(ways, records, strict=True)}
  for (kernel, way), record in zip(ways, records, strict=True):
    ratio = seconds[kernel, way] / seconds['dense', way]
    assert record['ratio_to_dense'] == ratio > 0
    assert record['ratio_to_jax.nn'] is None


def test_a_program_that_does_not_fit_is_compiled_and_says_why(problem, records):
  needed = records[0]['needed_bytes']
  found = measure(problem, DENSE, Limits(needed, 1e9))
  assert [record['seconds'] is None for record in found] == [False, True]
  assert all(record['temporary_mib'] > 0 for record in found)
  text = attention_report.notes(found, {})
  assert text.count('GiB of memory') == 1 and 'dense, 24, both' in text


def test_a_program_that_would_take_too_long_says_so(problem, records):
  shorter = [record | {'length': 12, 'seconds': 10.0} for record in records]
  shorter[0]['seconds'] = 1.0
  found = measure(problem, DENSE, Limits(2**40, 20.0), shorter)
  assert [record['seconds'] is None for record in found] == [False, True]
  assert found[0]['rounds'] == 4  # and one call before, 4 s each
  assert attention_report.notes(found, {}).count('40.0 s a call') == 1


def test_time_is_predicted_from_how_it_grew():
  def at(length, seconds):
    same = {'kernel': 'dense', 'way': 'both'}
    return {'length': length, 'seconds': seconds, **same}

  def guess(*known):
    return predicted(known, 'dense', 'both', 64)

  assert guess() is guess(at(32, None)) is None
  assert guess(at(16, 1.0)) == guess(at(16, None), at(32, 4.0)) == 16
  assert guess(at(16, 1.0), at(32, 2.0)) == 4
  assert guess(at(16, 1.0), at(32, 0.5)) == 1  # no less than the length
  assert guess(at(16, 1.0), at(32, 9.0)) == 36  # no more than its square
  assert predicted([at(16, 1.0)], 'chunked', 'both', 64) is None


def test_doublings_and_dashes():
  def record(length, seconds, way):
    return {
      'kernel': 'banded',
      'length': length,
      'way': way,
      'seconds': seconds,
      'temporary_mib': 3.0 * length,
    }

  records = [
    record(length, seconds, way)
    for length, seconds in ((8, 1.0), (16, 2.5), (32, None), (99, 1.0))
    for way in ('forward', 'both')
  ]
  lines = attention_report.doublings(records).splitlines()
  assert lines[-2].split()[-4:] == ['2.50', '2.00', '2.50', '2.00']
  assert lines[-1].split()[-4:] == ['-', '2.00', '-', '2.00']


def run(module, *args):
  return programs.done(f'benchmarks.{module}', *args)


def test_the_command_shows_saves_and_draws_what_it_found(tmp_path):
  saved, drawn = tmp_path / 'found.json', tmp_path / 'found.png'
  done = run(
    'attention',
    *('--lengths=32,16', '--scores=rope', '--heads=2', '--width=8'),
    *('--patterns=window', '--window=4', '--kernels=dense,jax.nn'),
    *(f'--json={saved}', f'--picture={drawn}'),
  )
  assert done.returncode == 0, done.stderr
  assert '16 to 32 jax.nn' in done.stdout and '32 dense' in done.stdout
  found = json.loads(saved.read_text())
  cells = {(r['length'], r['kernel'], r['way']) for r in found['cells']}
  assert len(cells) == len(found['cells']) == 8
  assert all(record['ratio_to_jax.nn'] > 0 for record in found['cells'])
  assert found['flags']['window'] == 4
  assert drawn.stat().st_size > 1000


@pytest.mark.parametrize(
  'module, flag, words',
  [
    ('attention', '--kernels=dance', ['none of dense', 'chunked']),
    ('attention', '--lengths=1k', ['--lengths=1k', '1024']),
    ('gpu_attention', '--rounds=1', ['needs a GPU', 'cpu']),
  ],
)
def test_what_cannot_be_is_refused_in_one_line(module, flag, words):
  done = run(module, flag)
  assert done.returncode == 2 and 'Traceback' not in done.stderr
  for word in words:
    assert word in done.stderr


def test_pytorch_attends_as_dense_does_gradients_included(problem, close):
  torch = pytest.importorskip('torch')
  from benchmarks import torch_attention as theirs

  inputs = problem.inputs()
  want, grads = jax.jit(program(problem, KERNELS['dense'], 'both'))(inputs)
  learned = jax.tree.map(np.asarray, inputs['learned'])
  x = theirs.from_numpy(learned, 'cpu', 'float32')
  dy = theirs.heads_first(np.asarray(inputs['dy']))
  y, got = theirs.both(theirs.relative(problem.length, 'cpu'), x, dy)
  close(theirs.heads_second(y), want)
  scale = problem.width**-0.5
  close(theirs.heads_second(got.q) / scale, grads['q'])
  for name in 'kv':
    close(theirs.heads_second(getattr(got, name)), grads[name])
  close(theirs.heads_second(got.r[None])[0], grads['r'])
  for name in 'uw':
    close(getattr(got, name)[:, 0], grads[name])
  with torch.no_grad():
    y = theirs.forward(theirs.flex(problem.length, 'cpu'), x)
  close(theirs.heads_second(y), want)


def test_who_gives_another_output_is_not_timed():
  pytest.importorskip('torch')
  from benchmarks import gpu_contenders
  from lctx.errors import RunError

  with pytest.raises(RunError, match='differs from the right output'):
    gpu_contenders.difference('it', np.array([1.0, 2.0]), np.array([1.0, 3.0]))
