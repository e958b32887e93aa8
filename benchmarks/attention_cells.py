"""Attention as it is timed: one problem, and the kernels that compute it."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.attention_scores import SCORES, drawn
from lctx.kernels.banded import Banded
from lctx.kernels.base import Kernel
from lctx.kernels.chunked import Chunked
from lctx.kernels.dense import Dense
from lctx.kernels.fused import Fused
from lctx.kernels.source import Source, rotated
from lctx.kernels.splash import Splash
from lctx.patterns.base import Pattern
from lctx.positions import Sizes
from lctx.types import segment_coords


@dataclasses.dataclass(frozen=True)
class JaxNN(Kernel):
  """`jax.nn.dot_product_attention`, where it can compute the same."""

  implementation: str | None = None

  def __call__(self, sources, dropout):
    (source,), (before, after) = sources, sources[0].pattern.reach
    if not all(score.only_rotates for score in source.scores):
      raise ValueError('it has no place for this score')
    q_BTNH, k_BSKH = rotated(source)
    return jax.nn.dot_product_attention(
      q_BTNH,
      k_BSKH,
      source.v,
      scale=1.0,
      is_causal=after == 0,
      local_window_size=None if before is None else (before, after),
      implementation=self.implementation,
    )


# What a kernel raises for what it cannot compute is shown: see `refusal`.
KERNELS: dict[str, Kernel] = {
  'dense': Dense(),
  'jax.nn': JaxNN(),
  'chunked': Chunked(),
  'banded': Banded(),
  'fused': Fused(),
  'splash': Splash(),
}


@dataclasses.dataclass(frozen=True)
class Problem:
  """What is computed: the attention of rows of `length` tokens to themselves.

  Documents are not known to the compiler, as in a model.
  """

  length: int
  score: str
  pattern: Pattern
  heads: int = 8
  width: int = 64  # of a head
  rows: int = 1
  dtype: str = 'float32'

  @property
  def sizes(self) -> Sizes:
    heads = self.heads, self.heads, self.width
    return Sizes(
      self.heads * self.width, *heads, self.length, 0, self.dtype, self.width
    )

  def inputs(self, seed: int = 0) -> dict:
    """Random numbers for `program`: `learned` has all that has a gradient."""
    shape = self.rows, self.length, self.heads, self.width
    *keys, of_score = jax.random.split(jax.random.key(seed), 5)
    q, k, v, dy = (jax.random.normal(key, shape, self.dtype) for key in keys)
    return {
      'learned': {
        'q': q / math.sqrt(self.width),
        'k': k,
        'v': v,
        **drawn(self.score, self.sizes, of_score),
      },
      'document': jnp.zeros(shape[:2], jnp.int32),
      'dy': dy,
    }


def program(problem: Problem, kernel: Kernel, way: str) -> Callable:
  """Of inputs: y [B, T, N, H]; both ways: y, and the gradient of `learned`."""

  def attend(document, learned):
    make, at = SCORES[problem.score], segment_coords(document)
    scores = make(lambda name, *_: learned[name], problem.sizes)
    arrays = learned['q'], learned['k'], learned['v']
    return kernel((Source(*arrays, at, at, scores, problem.pattern),), None)

  def forward(inputs):
    return attend(inputs['document'], inputs['learned'])

  def both(inputs):
    attended = functools.partial(attend, inputs['document'])
    y_BTNH, back = jax.vjp(attended, inputs['learned'])
    return y_BTNH, back(inputs['dy'])[0]

  return {'forward': forward, 'both': both}[way]


def refusal(problem: Problem, kernel: Kernel) -> str | None:
  """Why a kernel cannot compute it on this device; None = it can."""
  inputs = jax.eval_shape(problem.inputs)
  try:
    jax.jit(program(problem, kernel, 'forward')).lower(inputs)
  except (ValueError, NotImplementedError) as error:
    return str(error).splitlines()[0]
  return None
