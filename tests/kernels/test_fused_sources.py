"""The fused kernel over several sets of keys, and scores it cannot serve."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import struct

from lctx.kernels.dense import Dense
from lctx.kernels.dropout import Dropout
from lctx.kernels.fused import Fused
from lctx.kernels.source import Source
from lctx.patterns import BlockSparse, Causal, Window
from lctx.positions.adaptive import Reweighted
from lctx.positions.base import Score
from lctx.positions.cap import SoftCap
from lctx.positions.relative import Relative
from lctx.positions.span import Span
from lctx.types import EMPTY, segment_coords

B, T, N, K, H = 2, 13, 4, 2, 5
LENGTHS = 7, 17, T  # of each set of keys
STARTS = -40, -17, 0
BEHIND = 54  # distances from 0 to 53
KERNELS = (
  Fused(8, 16, interpret=True),
  Fused(16, 8, interpret=True, platform='gpu'),
)


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def coords(length, start):
  """Row 1 is of another document in its last tokens, and has empty slots."""
  document = jnp.zeros((B, length), jnp.int32)
  document = document.at[1, -2:].set(int(start == 0)).at[1, :2].set(EMPTY)
  return segment_coords(document, start)


def sources(pattern, made, given, ordered=True):
  """One for each set of keys, with the scores that `made` makes.

  Unless `ordered`, the first set promises nothing of its coordinates.
  """
  ats = [coords(*at) for at in zip(LENGTHS, STARTS)]
  near = ats[-1]
  if not ordered:
    ats[0] = ats[0].replace(start=None)
  scores = tuple(score(given) for score in made)
  return tuple(
    Source(given['q'], k, v, near, at, scores, pattern)
    for k, v, at in zip(given['k'], given['v'], ats)
  )


def relative(given):
  return Relative(*(given[name] for name in ('r', 'u', 'w', 'c')), 0.4)


def reweighted(given):
  cosine = Relative(None, None, None, given['cosine'], 1.0)
  return Reweighted(given['g'], cosine)


def arrays():
  return {
    'q': normal(0, B, T, N, H),
    'k': [normal(1, B, length, K, H) for length in LENGTHS],
    'v': [normal(2, B, length, K, H) for length in LENGTHS],
    'r': normal(3, BEHIND, N, H),
    'u': normal(4, N, H),
    'w': normal(5, N, H),
    'c': normal(6, BEHIND, N),
    'g': normal(7, N),
    'cosine': normal(8, BEHIND, 1) / 2,
    'z': jnp.abs(normal(9, N)) * 20,
  }


CASES = {
  'plain': (Causal(), [], 0.0),
  'a set that no query sees': (Window(20), [relative], 0.0),
  'dropped, one set in no known order': (Causal(), [relative], 0.3, False),
  'by blocks, all scores': (
    Causal() & BlockSparse(4, 4, edge=0, random=1, heads=N),
    [
      relative,
      reweighted,
      lambda given: SoftCap(1.5),
      lambda given: Span(given['z'], 6),
    ],
    0.3,
  ),
}


@functools.partial(tiny.quick_jit, static_argnums=(0, 1))
def attended(kernel, case, given):
  """What comes out, and the gradients of all that is given."""
  pattern, made, rate, *ordered = CASES[case]
  dropout = None
  if rate:
    dropout = Dropout(jax.random.key_data(jax.random.key(3)), rate)

  def weighed(given):
    y = kernel(sources(pattern, made, given, *ordered), dropout)
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

  return jax.grad(weighed, has_aux=True)(given)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('kernel', KERNELS, ids=('tpu', 'gpu'))
def test_several_sets_of_keys_share_one_softmax(kernel, case, close):
  got = attended(kernel, case, arrays())
  jax.tree.map(close, got, attended(Dense(), case, arrays()))


def test_a_score_without_steps_is_refused_by_its_name():
  @struct.dataclass
  class Squared(Score):
    def block(self, s_NBTS, q_BTNH, q_at, k_at):
      return s_NBTS**2

  given = sources(Causal(), [lambda given: Squared()], arrays())
  with pytest.raises(ValueError, match=r'Squared has no steps.*=chunked'):
    Fused(8, 16, interpret=True)(given, None)
