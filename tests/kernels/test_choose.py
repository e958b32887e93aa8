"""The kernel that is chosen: by size, pattern, scores and platform."""

import logging

import jax
import jax.numpy as jnp
import pytest
import tiny

from lctx.kernels import choose as choosing
from lctx.kernels.banded import Banded
from lctx.kernels.choose import AT_ONCE, Auto, choose
from lctx.kernels.chunked import Chunked
from lctx.kernels.dense import Dense
from lctx.kernels.dropout import Dropout
from lctx.kernels.fused import Fused
from lctx.kernels.source import Source
from lctx.kernels.splash import Splash
from lctx.patterns import BlockSparse, Causal, Dilated, Sinks, Window
from lctx.positions.cap import SoftCap
from lctx.positions.relative import Relative
from lctx.positions.rope import Rotation
from lctx.positions.span import Span
from lctx.types import segment_coords


def source(length, pattern, scores=(), promise=True, width=64):
  """Shapes alone: nothing of this size is made."""
  array = jax.ShapeDtypeStruct((1, length, 8, width), jnp.float32)
  at = segment_coords(jnp.zeros((1, length), jnp.int32))
  if not promise:
    at = at.replace(start=None)
  return (Source(array, array, array, at, at, tuple(scores), pattern),)


r_PNH = jnp.zeros((8, 8, 64))
XL = Relative(r_PNH, None, None, None, 1.0)
LOOKED_UP = Causal() & BlockSparse(64)
TPU, GPU = Fused(platform='tpu'), Fused(platform='gpu')
BANDED = Banded(at_once=AT_ONCE)
STOCK = Splash(platform='tpu')
TURN = Rotation(jnp.ones(4))
CAPPED_FIRST = (SoftCap(2.0), Span(jnp.zeros(8), 4))


@pytest.mark.parametrize(
  'platform, length, pattern, more, want, why',
  [
    ('cpu', 1024, Causal(), {}, Dense(), 'take 32.0 MiB'),
    ('cpu', 8192, Causal(), {}, Chunked(), 'would take 2,048 MiB'),
    ('cpu', 8192, Window(512), {}, Banded(), 'sees 513 at most'),
    ('cpu', 8192, Window(1024), {}, Chunked(), '8,192 queries x 8,192'),
    ('cpu', 8192, Dilated(512, (1,) * 4 + (2,) * 4), {}, Banded(), '1,025'),
    ('gpu', 1024, Causal(), {'scores': (XL,)}, Dense(), 'take 32.0 MiB'),
    ('gpu', 8192, Causal(), {'scores': (XL,)}, GPU, 'a GPU computes 8,192'),
    ('gpu', 8192, Window(64) | Sinks(4), {}, GPU, 'in one kernel'),
    ('gpu', 8192, Window(1024), {'width': 256}, BANDED, 'sees 1,025'),
    ('gpu', 8192, Causal(), {'width': 256}, Chunked(), 'at most 128 numbers'),
    ('gpu', 8192, Window(64), {'promise': False}, Chunked(), 'known when'),
    ('tpu', 1024, Causal(), {'scores': (XL,)}, TPU, 'score of Relative)'),
    ('tpu', 8192, Causal(), {'scores': (TURN,)}, STOCK, 'the stock one'),
    ('tpu', 8192, Window(9, 9), {}, STOCK, 'in one kernel, the stock one'),
    ('tpu', 65_536, Causal(), {}, TPU, 'a mask of this size'),
    ('tpu', 64, Causal(), {}, Dense(), 'take 0.1 MiB'),
    ('tpu', 8192, LOOKED_UP, {}, TPU, 'in one kernel'),
    ('tpu', 8192, Causal(), {'scores': CAPPED_FIRST}, TPU, 'in one kernel'),
    (
      'tpu',
      8192,
      Causal(),
      {'promise': False},
      Chunked(),
      'known when compiling',
    ),
  ],
)
def test_the_choice_and_its_reason(platform, length, pattern, more, want, why):
  kernel, reason = choose(source(length, pattern, **more), platform)
  assert kernel == want and why in reason


def test_weights_are_dropped_by_the_fused_kernel_on_a_tpu():
  dropout = Dropout(jax.random.key_data(jax.random.key(0)), 0.1)
  kernel, reason = choose(source(8192, Causal()), 'tpu', dropout)
  assert kernel == TPU and 'splash drops no weights' in reason


def test_a_choice_is_logged_once_with_its_reason(caplog):
  choosing._log_once.cache_clear()
  caplog.set_level(logging.INFO, logger='lctx')
  at = segment_coords(jnp.zeros((1, 4), jnp.int32))
  array = jnp.ones((1, 4, 2, 8))
  sources = (Source(array, array, array, at, at, (), Causal()),)
  for _ in range(2):
    got = tiny.quick_jit(lambda s: Auto()(s, None))(sources)
  assert (got == 1).all()
  lines = [x.message for x in caplog.records if 'attention kernel' in x.message]
  assert len(lines) == 1 and 'Dense()' in lines[0] and '4 queries' in lines[0]


def test_a_platform_that_is_none_is_refused():
  with pytest.raises(ValueError, match=r"kernel\.platform = 'npu'"):
    Auto('npu')
