"""What an option of the model costs: variants of one step, timed in turns.

Each function of `RATIOS` gives the variants of one question, the usual first:
a call, and what compiling it took.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks import timing
from benchmarks.cases import Case, compile_timed, random_batch, train_step
from lctx.models.segments import scan_segments, split
from lctx.types import segment_coords

SEGMENTS = 4  # of one step, in the questions about segments


def measure(variants: dict[str, tuple[Callable, dict]], rounds: int) -> list:
  """The variants timed in turns; ratios are of wall and CPU to the first."""
  found = timing.interleaved(
    {n: call for n, (call, _) in variants.items()}, rounds
  )
  first = next(iter(found.values()))
  return [
    {
      'variant': name,
      'wall_seconds': seconds.wall,
      'wall_ratio': seconds.wall / first.wall,
      'cpu_seconds': seconds.cpu,
      'cpu_ratio': seconds.cpu / first.cpu,
      **variants[name][1],
    }
    for name, seconds in found.items()
  ]


def table(found: list[dict]) -> str:
  names = [name for name in found[0] if name != 'variant']
  columns = ('', 'wall s', 'ratio', 'CPU s', 'ratio', 'compile s', 'MiB')
  rows = [[r['variant'], *(r[name] for name in names)] for r in found]
  return timing.table(columns, rows)


def with_compute(case: Case, **changes) -> Case:
  compute = dataclasses.replace(case.model.compute, **changes)
  model = dataclasses.replace(case.model, compute=compute)
  return dataclasses.replace(case, model=model)


def layer_scan(case: Case) -> dict:
  depth = case.model.stack.depth
  return {
    'layers scanned': train_step(with_compute(case, unroll=1)),
    'layers unrolled': train_step(with_compute(case, unroll=depth)),
  }


def precision(case: Case) -> dict:
  return {
    dtype: train_step(with_compute(case, dtype=dtype))
    for dtype in ('float32', 'bfloat16')
  }


def remat(case: Case) -> dict:
  case = long_step(case)
  return {
    name: train_step(
      with_compute(case, remat_layers=layers, remat_segments=segments)
    )
    for name, layers, segments in (
      ('remat none', False, False),
      ('remat layers', True, False),
      ('remat segments', False, True),
      ('remat both', True, True),
    )
  }


def segment_scan(case: Case) -> dict:
  """Loss and gradient through all segments, in one loop or one by one."""
  case = long_step(case)
  params = jax.jit(case.model.init_params)(jax.random.key(0))
  args = (params, case.model.initial(case.rows), random_batch(case))
  variants = {}
  for name, over in (
    (
      'segments scanned',
      functools.partial(
        scan_segments, gradient_segments=case.train.gradient_segments
      ),
    ),
    ('segments unrolled', _unrolled),
  ):
    grad = jax.jit(jax.grad(functools.partial(_loss, case, over)))
    compiled, about = compile_timed(functools.partial(grad.lower, *args))
    variants[name] = functools.partial(compiled, *args), about
  return variants


def long_step(case: Case) -> Case:
  """SEGMENTS segments a step, and gradients through all of them."""
  train = dataclasses.replace(case.train, gradient_segments=SEGMENTS - 1)
  return dataclasses.replace(case, segments=SEGMENTS, train=train)


def _loss(case, over, params, carry, batch):
  variables = {'params': params}

  def one(carry, batch):
    at = segment_coords(batch.document)
    hidden, carry, penalty = case.model.apply(
      variables, batch.tokens, at, carry
    )
    nll = case.model.apply(variables, hidden, batch.targets, method='nll')
    return carry, nll.mean() + penalty

  _, losses = over(one, carry, split(batch, case.segment))
  return losses.mean()


def _unrolled(step, carry, segments):
  losses = []
  for i in range(SEGMENTS):
    one = jax.tree.map(lambda x, i=i: x[i], segments)
    carry, loss = step(carry, one)
    losses.append(loss)
  return carry, jnp.stack(losses)


RATIOS = {
  'Layers: scanned or unrolled': layer_scan,
  f'{SEGMENTS} segments, gradients through all: scanned or unrolled': (
    segment_scan
  ),
  f'{SEGMENTS} segments, gradients through all: rematerialisation': remat,
  'Type of activations': precision,
}
