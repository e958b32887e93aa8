"""A soft cap bends logits, all that was added to them included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.dense import Dense
from lctx.kernels.source import Source
from lctx.models.heads import Heads
from lctx.patterns import Causal
from lctx.positions.alibi import Fall
from lctx.positions.cap import SoftCap
from lctx.types import segment_coords

B, T, N, H = 2, 6, 2, 4


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def bent(cap, s):
  return SoftCap(cap).block(s, None, None, None)


@pytest.mark.parametrize('cap', [0.5, 3.0, 50.0])
def test_a_logit_is_bent_by_the_equation(cap, close):
  s = 5 * normal(0, N, B, T, T)
  wide = np.float64(s)
  close(bent(cap, s), cap * np.tanh(wide / cap), 1e-6)
  slope = jax.grad(lambda s: bent(cap, s).sum())(s)
  close(slope, 1 - np.tanh(wide / cap) ** 2, 1e-5)


def test_small_logits_stay_and_none_goes_beyond_the_cap(close):
  small = 1e-3 * normal(0, N, B, T, T)
  close(bent(50.0, small), small, 1e-6)
  far = jnp.asarray([-1e30, -1e4, 1e4, 1e30])
  np.testing.assert_array_equal(bent(7.0, far), [-7, -7, 7, 7])


def test_attention_caps_what_positions_say_too_and_hides_after(close):
  """A hidden key stays hidden: the cap does not bring it back."""
  q, k, v = 3 * normal(1, 3, B, T, N, H)
  at = segment_coords(jnp.zeros((B, T), jnp.int32).at[1, 4:].set(1))
  slope, cap = (0.5, 2.0), 2.0
  scores = (Fall(jnp.array(slope)), SoftCap(cap))
  source = Source(q, k, v, at, at, scores, Causal())
  want, (q, k, v) = np.zeros(q.shape), map(np.float64, (q, k, v))
  for b, i, n in np.ndindex(B, T, N):
    seen = range(4 if b == 1 and i >= 4 else 0, i + 1)
    logits = [q[b, i, n] @ k[b, j, n] - slope[n] * (i - j) for j in seen]
    weights = np.exp(cap * np.tanh(np.array(logits) / cap))
    want[b, i, n] = weights @ v[b, seen, n] / weights.sum()
  close(tiny.quick_jit(Dense())((source,), None), want)


def test_a_cap_that_cannot_be_is_refused_by_name():
  for cap in (0.0, -1.0):
    with pytest.raises(ValueError, match=rf'^model\.heads\.cap = {cap} '):
      Heads(cap=cap)
