"""The stock kernel of TPUs gives what the definition gives, where it serves."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.dense import Dense
from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source
from lctx.kernels.splash import Splash
from lctx.patterns import Causal, Everything, Sinks, Staircase, Window
from lctx.positions.alibi import Fall
from lctx.positions.cap import SoftCap
from lctx.positions.rope import Rotation
from lctx.types import EMPTY, segment_coords

B, T, N, H = 2, 150, 2, 8  # tiles have sides of 128
SPLASH = Splash(128, 128, interpret=True)
ROTATION = Rotation(jnp.array([1.0, 0.1, 0.01, 0.001]))
CASES = {  # pattern, keys in front of the segment, key heads, scores
  'causal': (Causal(), 0, 2, ()),
  'window': (Window(20), 0, 2, ()),
  'window, two sides': (Window(70, 30), 0, 2, ()),
  'everything': (Everything(), 0, 2, ()),
  'memory, grouped': (Causal(), 131, 1, ()),
  'window over memory, rotated': (Window(140), 131, 2, (ROTATION,)),
  'both, grouped, capped': (
    Causal() & Window(90, 3),
    40,
    1,
    (ROTATION, SoftCap(1.5)),
  ),
}


def coords(length, start):
  """Row 1 is of two documents, and has empty slots at its beginning."""
  document = jnp.zeros((B, length), jnp.int32)
  document = document.at[1, -60:].set(1).at[1, :9].set(EMPTY)
  return segment_coords(document, start)


def source(case, arrays):
  pattern, memory, _, scores = CASES[case]
  k_at = coords(memory + T, -memory)
  q_at = k_at.take(memory, memory + T)
  return Source(*arrays, q_at, k_at, scores, pattern)


def arrays(case):
  _, memory, key_heads, _ = CASES[case]
  random = np.random.default_rng(0)
  shapes = [(B, T, N, H)] + [(B, memory + T, key_heads, H)] * 2
  return [jnp.float32(random.standard_normal(shape)) for shape in shapes]


@functools.partial(tiny.quick_jit, static_argnums=(0, 1))
def attended(kernel, case, arrays):
  """The gradients of queries, keys and values, and what comes out."""

  def weighed(arrays):
    y = kernel((source(case, arrays),), None)
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

  return jax.grad(weighed, has_aux=True)(arrays)


@pytest.mark.parametrize('case', CASES)
def test_attention_and_all_its_gradients_are_as_defined(case, close):
  got = attended(SPLASH, case, arrays(case))
  jax.tree.map(close, got, attended(Dense(), case, arrays(case)))


def test_a_query_that_sees_nothing_gets_zeros_and_moves_nothing():
  (dq, dk, dv), y = attended(SPLASH, 'window', arrays('window'))
  for x in (y, dq, dk, dv):  # the first nine of row 1 are empty
    assert not x[1, :9].any() and x[1, 9:].any()


@pytest.mark.parametrize('pattern', [Window(300, 40), Everything()])
def test_nothing_of_size_t_x_s_is_made(pattern):
  q, k = (jax.ShapeDtypeStruct((1, n, N, H), jnp.float32) for n in (768, 1280))
  at = segment_coords(jnp.zeros((1, 1280), jnp.int32), -512)

  def summed(q, k):
    given = Source(q, k, k, at.take(512, 1280), at, (), pattern)
    return SPLASH((given,), None).sum()

  program = str(jax.make_jaxpr(jax.grad(summed, argnums=(0, 1)))(q, k))
  assert '1,768,' in program and '1280,' in program
  assert not re.search(r'768,1280\b|1280,768\b', program)


def test_short_numbers_give_nearly_the_same_and_stay_short(close):
  case = 'window over memory, rotated'
  short = [x.astype(jnp.bfloat16) for x in arrays(case)]
  with jax.default_matmul_precision('default'):
    got, want = (attended(k, case, short) for k in (SPLASH, Dense()))
  for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    assert x.dtype == jnp.bfloat16
    close(np.float32(x), np.float32(y), 0.02)  # eight bits of mantissa


@pytest.mark.parametrize(
  'change, words',
  [
    ({'pattern': Window(3) | Sinks(2)}, r'knows causal, window.* not Either'),
    ({'pattern': Causal() & Staircase(3)}, 'not Both'),
    ({'scores': (Fall(jnp.zeros(N)),)}, 'the score of Fall'),
    ({'scores': (SoftCap(2.0), SoftCap(3.0))}, 'caps once'),
    ({'k_at': coords(T, -200), 'pattern': Window(9)}, 'all are too far away'),
    ({'q_at': coords(T, 0).replace(start=None)}, 'known when compiling'),
  ],
)
def test_what_it_cannot_serve_is_refused_with_what_can(change, words):
  given = source('causal', arrays('causal')).replace(**change)
  with pytest.raises(ValueError, match=f'splash .*{words}.*kernel=auto'):
    SPLASH((given,), None)


def test_what_else_it_cannot_do_is_refused():
  given = source('causal', arrays('causal'))
  dropout = Dropout(jax.random.key_data(jax.random.key(0)), 0.1)
  with pytest.raises(ValueError, match=r'model\.dropout\.attention.*=auto'):
    SPLASH((given,), dropout)
  short = given.replace(q=given.q.astype(jnp.bfloat16))  # tests ask for more
  with pytest.raises(ValueError, match=r'bfloat16 as it is.*= highest.*=auto'):
    SPLASH((short,), None)
  with pytest.raises(ValueError, match='one set of keys, but here are 2'):
    SPLASH((given, given), None)
  with pytest.raises(ValueError, match=r'runs on TPUs, but this is a gpu'):
    Splash().check_platform('gpu')
  with pytest.raises(ValueError, match=r'runs on TPUs, but this is a cpu'):
    Splash()((given,), None)
  with pytest.raises(ValueError, match=r'runs on TPUs, but this is a gpu'):
    Splash(platform='gpu')
  Splash().check_platform('tpu')


@pytest.mark.parametrize('side', [0, 100, 64])
def test_sides_that_cannot_be_are_refused_by_name(side):
  with pytest.raises(ValueError, match=rf'kernel\.keys = {side}.*of 128'):
    Splash(keys=side)
