"""Kernels compiled for one problem and timed in turns, within limits.

A program that does not fit into memory, or would take too long, is compiled and
not run, and says why.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks import timing
from benchmarks.attention_cells import Problem, program
from benchmarks.cases import compile_timed
from lctx.kernels.base import Kernel

WAYS = ('forward', 'both')  # both: forward and backward
COMPARED = ('dense', 'jax.nn')  # what ratios are to
ROUNDS = 5  # at most
MIB, GIB = 2**20, 2**30


class Limits(NamedTuple):
  """What one program may take."""

  memory: float  # bytes, with its inputs and outputs
  seconds: float  # of all its calls


def measure(
  problem: Problem,
  kernels: Mapping[str, Kernel],
  limits: Limits,
  shorter: Sequence[dict] = (),
) -> list[dict]:
  """A record for each kernel and way; `shorter`: those of shorter texts."""
  records, programs = [], {}
  for name, kernel in kernels.items():
    for way in WAYS:
      compiled, about = _compiled(problem, kernel, way)
      record = {
        'length': problem.length,
        'kernel': name,
        'way': way,
        'predicted_seconds': predicted(shorter, name, way, problem.length),
        **about,
      }
      record['not_run'] = record['not_run'] or too_much(record, limits)
      records.append(record)
      if record['not_run'] is None:
        programs[name, way] = compiled
  run = [record for record in records if record['not_run'] is None]
  rounds = _rounds(run, limits)
  seconds = _timed(problem, programs, rounds)
  return [_with_times(record, seconds, rounds) for record in records]


def predicted(
  shorter: Sequence[dict], kernel: str, way: str, length: int
) -> float | None:
  """Seconds of a call, from those of shorter texts; None = nothing is known.

  They grow as they did between the last two, at least with the length and at
  most with its square, which is supposed of one alone.
  """
  known = [
    (record['length'], record['seconds'])
    for record in shorter
    if (record['kernel'], record['way']) == (kernel, way) and record['seconds']
  ]
  if not known:
    return None
  (last, seconds), power = known[-1], 2.0
  if len(known) > 1:
    before, less = known[-2]
    power = math.log(seconds / less) / math.log(last / before)
  return seconds * (length / last) ** min(max(power, 1.0), 2.0)


def too_much(record: Mapping, limits: Limits) -> str | None:
  """Why a program is not run; None = it is."""
  needed, seconds = record['needed_bytes'], record['predicted_seconds']
  if needed is not None and needed > limits.memory:
    return (
      f'needs {needed / GIB:,.1f} GiB of memory, and there are '
      f'{limits.memory / GIB:,.1f}'
    )
  if seconds is not None and 2 * seconds > limits.seconds:  # 1 to warm up
    return (
      f'would take about {seconds:,.1f} s a call, and two calls may take '
      f'{limits.seconds:,.1f}'
    )
  return None


def memory_limit() -> float:
  """Bytes that a program may take here; infinite where nothing says it."""
  stats = jax.devices()[0].memory_stats()
  if stats and 'bytes_limit' in stats:
    return float(stats['bytes_limit'] - stats.get('bytes_in_use', 0))
  found = [math.inf]
  group = Path('/sys/fs/cgroup/memory.max')
  if group.is_file() and group.read_text().strip().isdigit():
    found.append(float(group.read_text()))
  free = Path('/proc/meminfo')
  lines = free.read_text().splitlines() if free.is_file() else []
  found += [1024.0 * int(x.split()[1]) for x in lines if 'MemAvailable' in x]
  return min(found)


def _compiled(
  problem: Problem, kernel: Kernel, way: str
) -> tuple[Callable | None, dict]:
  """A program, and what compiling it took and says."""
  shapes = jax.eval_shape(problem.inputs)
  about = dict.fromkeys(
    ('compile_seconds', 'temporary_mib', 'needed_bytes', 'not_run')
  )
  try:
    step = jax.jit(program(problem, kernel, way))
    compiled, found = compile_timed(lambda: step.lower(shapes))
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    about['not_run'] = 'needs more memory than the compiler has for it'
    return None, about
  memory = compiled.memory_analysis()
  if memory is not None:
    about['needed_bytes'] = (
      memory.temp_size_in_bytes
      + memory.output_size_in_bytes
      + memory.argument_size_in_bytes
    )
  return compiled, about | found


def _rounds(run: Sequence[Mapping], limits: Limits) -> int:
  """As many as fit into the time of all that are run together."""
  total = sum(record['predicted_seconds'] or 0.0 for record in run)
  if not total:
    return ROUNDS
  calls = limits.seconds * len(run) / total
  return max(1, min(ROUNDS, int(calls) - 1))  # 1 to warm up


def _timed(problem, programs, rounds) -> dict[tuple[str, str], float]:
  if not programs:
    return {}
  inputs = jax.block_until_ready(jax.jit(problem.inputs)())
  calls = {key: functools.partial(f, inputs) for key, f in programs.items()}
  found = timing.interleaved(calls, rounds)
  return {key: seconds.wall for key, seconds in found.items()}


def _with_times(record, seconds, rounds) -> dict:
  """With its seconds, and their ratio to those of others in the same turns."""
  own = seconds.get((record['kernel'], record['way']))
  ratios = {}
  for name in COMPARED:
    theirs = seconds.get((name, record['way']))
    known = None not in (own, theirs)
    ratios[f'ratio_to_{name}'] = own / theirs if known else None
  return {
    **record,
    'seconds': own,
    'rounds': rounds if own is not None else None,
    **ratios,
  }
