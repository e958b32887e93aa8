"""Who is timed in `gpu_attention`: lctx, jax and PyTorch on one problem."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
import torch

from benchmarks import timing, torch_attention
from benchmarks.attention_cells import KERNELS, JaxNN, Problem, program
from lctx.errors import RunError
from lctx.kernels.base import Kernel

CALLS = 10  # of a turn: a single one is too short to time
OFF = 0.05  # what outputs in bfloat16 may differ by
WAYS = ('forward', 'both')  # both: forward and backward
PLAIN, CUDNN = 'without the term', 'cuDNN, without the term'


class Contender(NamedTuple):
  """Calls that compute attention, and how to wait until they have."""

  forward: Callable[[], object]
  both: Callable[[], object]
  wait: Callable[[], object]
  output: Callable[[object], np.ndarray] | None  # what `forward` gives, as
  # float32 [B, T, N, H]; None = it has no relative term


def contenders(
  problem: Problem, kernel: str, device: str
) -> dict[str, Contender]:
  """By name; the problem has score 'xl'. The first one is right."""
  plain = dataclasses.replace(problem, score='none')
  inputs = jax.jit(problem.inputs)()
  learned = jax.tree.map(np.float32, inputs['learned'])
  x = torch_attention.from_numpy(learned, device, problem.dtype)
  dy = torch_attention.heads_first(np.float32(inputs['dy']))
  dy = dy.to(x.q.device, x.q.dtype)
  found = {
    'Dense': ours(problem, KERNELS['dense']),
    kernel: ours(problem, KERNELS[kernel]),
    PLAIN: ours(plain, KERNELS[kernel]),
    CUDNN: ours(plain, JaxNN('cudnn')),
  }
  for name, attention in torch_attention.ways(problem.length, device).items():
    found[name] = theirs(attention, x, dy)
  return found


def ours(problem: Problem, kernel: Kernel) -> Contender:
  """What jax computes."""
  inputs = jax.block_until_ready(jax.jit(problem.inputs)())
  calls = [
    functools.partial(jax.jit(program(problem, kernel, way)), inputs)
    for way in WAYS
  ]
  output = np.float32 if problem.score == 'xl' else None
  return Contender(*calls, lambda: None, output)


def theirs(attention: Callable, x, dy) -> Contender:
  """What PyTorch computes."""
  on_gpu = x.q.device.type == 'cuda'
  return Contender(
    functools.partial(torch_attention.forward, attention, x),
    functools.partial(torch_attention.both, attention, x, dy),
    torch.cuda.synchronize if on_gpu else lambda: None,
    torch_attention.heads_second,
  )


def measure(everyone: Mapping[str, Contender], rounds: int) -> list[dict]:
  """A record each, timed in turns; all that can must give what the first does.

  What its library cannot run is a record that says why.
  """
  records, calls, right = [], {}, None
  for name, one in everyone.items():
    record = {'name': name, 'off': None, 'not_run': None}
    try:
      y = one.forward()
      jax.block_until_ready(one.both())
      one.wait()
    except (RuntimeError, ValueError) as error:
      (first, *_) = [*str(error).splitlines(), '']
      record['not_run'] = f'{type(error).__name__}: {first}'
    else:
      if one.output is not None:
        right = one.output(y) if right is None else right
        record['off'] = difference(name, one.output(y), right)
      for way in WAYS:
        calls[name, way] = functools.partial(several, one, way)
    records.append(record)
  found = timing.interleaved(calls, rounds)
  for record in records:
    for way in WAYS:
      seconds = found.get((record['name'], way))
      record[f'{way}_ms'] = 1e3 * seconds.wall / CALLS if seconds else None
  return records


def several(one: Contender, way: str) -> object:
  """A turn, whose calls follow each other without a pause."""
  call = getattr(one, way)
  for _ in range(CALLS):
    out = call()
  one.wait()
  return out


def difference(name: str, y: np.ndarray, right: np.ndarray) -> float:
  """The largest, relative to the largest that is right."""
  off = float(np.abs(y - right).max() / np.abs(right).max())
  if not off <= OFF:  # nan too
    raise RunError(
      f'{name} differs from the right output by {off:.2g} of the largest, and '
      f'at most {OFF} is rounding. Its times would mean nothing: mend it first.'
    )
  return off
