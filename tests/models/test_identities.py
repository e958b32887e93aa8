"""Parts that must be the same when what sets them apart is turned off."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.banded import Banded
from lctx.kernels.chunked import Chunked
from lctx.kernels.dense import Dense
from lctx.kernels.dropout import Dropout
from lctx.kernels.fused import Fused
from lctx.kernels.source import Source
from lctx.kernels.splash import Splash
from lctx.loaded import Loaded
from lctx.models.heads import AdaptiveSpan, Heads
from lctx.models.parts import Compute
from lctx.models.segments import scan_segments, split
from lctx.models.spans import clamped, effective_span, trimmed
from lctx.patterns import (
  Causal,
  Dilated,
  Everything,
  GlobalTokens,
  Sinks,
  Window,
)
from lctx.positions import DynamicNtk, Learned, NoPosition, Rope
from lctx.types import segment_coords

LENGTH = 12


def model(**parts):
  whole = tiny.transformer_xl(memory_length=LENGTH)
  return dataclasses.replace(whole, **parts)


def read(model, lengths=(LENGTH,), params=None, document=None):
  params = tiny.large_params(model) if params is None else params
  ids = tiny.some_ids(2, LENGTH)
  return tiny.loop(model, params, ids, lengths, document)[0]


@pytest.mark.parametrize(
  'pattern, same',
  [
    (Window(LENGTH - 1), Causal()),
    (Window(LENGTH - 1, LENGTH - 1), Everything()),
    (Window(0) | GlobalTokens(first=LENGTH), Everything()),
    (Dilated(4, gaps=(1, 1)), Window(4)),
    (Window(2) | Sinks(LENGTH), Causal()),
  ],
  ids=str,
)
def test_a_pattern_that_hides_nothing_more_is_the_one_it_refines(
  pattern, same, close
):
  np.testing.assert_array_equal(
    read(model(pattern=pattern)), read(model(pattern=same))
  )


def test_sinks_and_a_window_are_the_masked_quadratic_reference(close):
  """Keys among the first two, or at most three steps back; by loop."""
  random = np.random.default_rng(0)
  q, k, v = random.standard_normal((3, LENGTH, 5))
  want = np.zeros((LENGTH, 5))
  for i in range(LENGTH):
    seen = [j for j in range(i + 1) if j < 2 or i - j <= 3]
    weight = np.exp(k[seen] @ q[i])
    want[i] = weight @ v[seen] / weight.sum()
  at = segment_coords(jnp.zeros((1, LENGTH), jnp.int32))
  q, k, v = (jnp.asarray(x[None, :, None], jnp.float32) for x in (q, k, v))
  source = Source(q, k, v, at, at, (), Window(3) | Sinks(2))
  for kernel in (Dense(), Chunked(5, 4), Fused(8, 8, interpret=True)):
    close(kernel((source,), None)[0, :, 0], want)


def test_dropout_is_the_same_in_every_kernel(close):
  at = segment_coords(jnp.zeros((2, LENGTH), jnp.int32))
  random = np.random.default_rng(0)
  q, k, v = jnp.asarray(random.standard_normal((3, 2, LENGTH, 2, 4)), 'float32')
  dropout = Dropout(jax.random.key_data(jax.random.key(5)), 0.4)

  def attended(kernel, dropout):
    source = Source(q, k, v, at, at, (), Dilated(3, (2, 1)))
    return tiny.quick_jit(lambda: kernel((source,), dropout))()

  want = attended(Dense(), dropout)
  assert np.abs(want - attended(Dense(), None)).max() > 0.1
  for kernel in (Chunked(5, 4), Banded(4), Fused(8, 8, interpret=True)):
    close(attended(kernel, dropout), want)


def test_a_trained_span_gives_the_same_with_a_trimmed_memory(close):
  spans = Heads(span=AdaptiveSpan(longest=10, ramp=2))
  for same_length in (False, True):
    whole = model(heads=spans, position=Rope())
    memory = dataclasses.replace(whole.memory, same_length=same_length)
    whole = dataclasses.replace(whole, memory=memory)
    params = tiny.large_params(whole)
    layers = params['layers'] | {'span': jnp.array([[0.2, 0.0], [0.1, 0.31]])}
    params = params | {'layers': layers}
    assert effective_span(whole, params) == 6  # of 0.31 * 10 + 2
    less = trimmed(whole, params)
    assert less.memory.length == 7
    want = read(whole, (3, 3, 3, 3), params)
    close(read(less, (3, 3, 3, 3), params), want, 1e-6)
    shorter = dataclasses.replace(
      memory, length=effective_span(whole, params) - 2
    )
    shorter = dataclasses.replace(whole, memory=shorter)
    assert np.abs(read(shorter, (3, 3, 3, 3), params) - want).max() > 1e-3
  plain = model()
  assert trimmed(plain, tiny.large_params(plain)) is plain


def test_spans_stay_within_their_limits():
  whole = model(heads=Heads(span=AdaptiveSpan(longest=10, ramp=2)))
  params = tiny.large_params(whole)
  layers = params['layers'] | {'span': jnp.array([[-0.2, 0.4], [1.1, 1.0]])}
  got = clamped(whole, params | {'layers': layers})['layers']['span']
  np.testing.assert_array_equal(got, [[0, np.float32(0.4)], [1, 1]])
  assert clamped(model(), params) is params


@pytest.mark.parametrize('position', [None, Rope()], ids=['xl', 'rope'])
def test_a_stream_of_10_8_tokens_is_as_exact_as_its_beginning(position):
  whole = model(**({} if position is None else {'position': position}))
  params, ids = tiny.large_params(whole), tiny.some_ids(2, LENGTH)
  _, carry = tiny.loop(whole, params, ids, [6, 6])
  memory = carry.layers[0].memory
  at = memory.at.replace(offset=memory.at.offset + 10**8)
  late = tiny.with_memory(carry, memory.replace(at=at))
  here = jnp.zeros((2, 4), jnp.int32)
  x, there = tiny.jitted_segment(whole, params, ids[:, :4], here, late)
  y, _ = tiny.jitted_segment(whole, params, ids[:, :4], here, carry)
  np.testing.assert_array_equal(x, y)
  assert there.layers[0].memory.at.offset[0, 0, -1] == 10**8 + LENGTH + 3


def test_recomputing_layers_leaks_nothing_from_any_kernel(close):
  """Rematerialised under two scans, with gradients: the same numbers."""

  def gradient(kernel, remat):
    compute = Compute(remat_layers=remat, kernel=kernel)
    some = model(pattern=Window(5), compute=compute, position=NoPosition())
    params = tiny.large_params(some)

    def loss(params):
      def step(carry, tokens):
        document = jnp.zeros_like(tokens)
        hidden, carry = tiny.segment_of(some, params, tokens, document, carry)
        return carry, hidden

      segments = split(tiny.some_ids(2, LENGTH), 4)
      scanned = scan_segments(
        step, some.initial(2), segments, gradient_segments=2, remat=remat
      )
      return (scanned[1] ** 2).sum()

    return tiny.quick_jit(jax.grad(loss))(params)

  want = gradient(Dense(), False)
  splash = Splash(interpret=True)
  for kernel in (Chunked(3, 5), Banded(3), Fused(8, 8, interpret=True), splash):
    jax.tree.map(close, gradient(kernel, True), want)


def test_a_document_longer_than_its_positions_is_refused():
  whole = model(position=Learned(LENGTH))
  whole.check_length(LENGTH, 'It')
  for tokens, words in ((LENGTH + 1, '13 tokens'), (None, 'has no end')):
    with pytest.raises(ValueError, match=rf'{words}.*position\.length = 12'):
      whole.check_length(tokens, 'It')
  alone = dataclasses.replace(whole.memory, length=0)
  dataclasses.replace(whole, memory=alone).check_length(99, 'It')
  model().check_length(None, 'It')


def test_a_loaded_model_is_fitted_to_a_declared_length_and_to_its_spans():
  stretch = DynamicNtk(2.0, trained=8, length=8)
  heads = Heads(span=AdaptiveSpan(longest=10, ramp=2))
  whole = model(position=Rope(stretch=stretch), heads=heads)
  params = tiny.large_params(whole)
  params = params | {'layers': params['layers'] | {'span': jnp.zeros((2, 2))}}
  loaded = Loaded(whole, params, None, None, 0)
  assert loaded.declared(24).model.position.stretch.length == 24
  assert loaded.trimmed().model.memory.length == 3  # the ramp, and one
  assert loaded.declared(24).model.memory == whole.memory


def test_a_kernel_that_does_not_run_here_is_named():
  with pytest.raises(ValueError, match=r'kernel = fused runs on TPUs.* a cpu'):
    Fused().check_platform('cpu')
  for kernel in (Fused(8, 8, interpret=True), Chunked(), Dense(), Banded()):
    kernel.check_platform('cpu')
  for platform in ('tpu', 'gpu'):
    Fused().check_platform(platform)
  with pytest.raises(ValueError, match=r'platform = gpu, but this is a tpu'):
    Fused(platform='gpu').check_platform('tpu')
  with pytest.raises(ValueError, match=r'queries = 384 .* power of two'):
    Fused(384).check_platform('gpu')
