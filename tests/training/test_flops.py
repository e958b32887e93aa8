"""FLOPs: by hand, by XLA where nothing is scanned, and of devices."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import pytest
import tiny

from lctx.layers.ffn import Geglu, Relu, Swiglu
from lctx.layers.gates import GRUGate, InputGate, Residual, SigmoidTanhGate
from lctx.memory.xl import XLCache
from lctx.models.heads import AdaptiveQueries, Heads
from lctx.models.parts import Stack
from lctx.models.text import Decoder
from lctx.models.vocabulary import Embedding
from lctx.optimizer.axes import is_matrix
from lctx.patterns import Causal, Chunks, Dilated, Everything, Sinks, Window
from lctx.positions.absolute import NoPosition
from lctx.positions.xl import LearnedRelative
from lctx.training.flops import count, keys_seen, utilisation

T, M, D, N, H, F, V = 64, 32, 128, 4, 32, 256, 200


def small(**fields):
  sizes = {'depth': 2, 'width': 4, 'num_heads': 2, 'memory_length': 2}
  return tiny.transformer_xl(
    **sizes, head_width=3, ffn_width=10, vocab=7, **fields
  )


def test_averaged_queries_are_one_product_more():
  plain = small()
  averaged = dataclasses.replace(plain, heads=Heads(adaptive=AdaptiveQueries()))
  some, more = (count(model, segment=3) for model in (plain, averaged))
  assert more.attention == 1.5 * some.attention
  assert more.reprojection == 1.5 * some.reprojection
  assert more.projections == some.projections


def test_a_small_model_counted_by_hand():
  flops = count(small(), segment=3, rows=5)
  # Queries see 3, 4 and 5 keys: 4 on average, where T + M is 5.
  assert flops.projections == 2 * (4 * 2 * 4 * 6)
  assert flops.attention == 2 * (2 * 2 * 6 * 4)
  assert flops.relative == 2 * (2 * 6 * 4 + 2 * 4 * 6 * 5 / (3 * 5))
  assert flops.ffn == 2 * (2 * 2 * 4 * 10)
  assert flops.gates == 0
  assert flops.vocabulary == 2 * 4 * 7
  assert flops.forward == 384 + 192 + 96 + 32 + 320 + 56
  assert flops.train == 3 * flops.forward
  assert flops.reprojection == 2 * (2 * 2 * 4 * 6) * 2 / 3


def test_a_table_of_distances_is_met_but_not_projected():
  flops = count(small(position=LearnedRelative(9)), segment=3)
  assert flops.relative == 2 * (2 * 6 * 4)
  absolute = dataclasses.replace(small(), position=NoPosition())
  assert count(absolute, segment=3).relative == 0


def test_a_query_sees_what_its_mask_lets_it_see():
  assert keys_seen(Causal(), 2, 5, 7) == (5 + 1) / 2 + 7
  assert keys_seen(Everything(), 2, 5, 7) == 12
  assert keys_seen(Window(6), 2, 5, 7) == 7
  # Without memory the first queries have less than a window behind them.
  assert keys_seen(Window(1), 2, 4, 0) == (1 + 2 + 2 + 2) / 4
  assert keys_seen(Window(1, 1), 2, 4, 0) == (2 + 3 + 3 + 2) / 4


def test_gaps_in_a_pattern_are_not_seen():
  assert keys_seen(Dilated(2, (1, 2)), 2, 5, 7) == 3
  # The first query of the second head has one key less behind it.
  assert keys_seen(Dilated(2, (1, 4)), 2, 5, 7) == pytest.approx(3 - 1 / 10)
  assert keys_seen(Window(3) | Sinks(2), 2, 5, 7) == 4 + 2
  # Of many queries 256 are looked at, whatever the period of the pattern.
  for length, chunk in ((600, 8), (2048, 65), (4096, 5)):
    found = keys_seen(Causal() & Chunks(chunk), 1, length, 0)
    assert found == pytest.approx((chunk + 1) / 2, 0.1)


def test_every_bin_of_an_adaptive_softmax_is_met_by_every_token():
  embed = Embedding(width=8, vocab=45, cutoffs=(5,), div_val=4)
  model = dataclasses.replace(small(), embed=embed)
  # Five tokens and a cluster of width 8, forty of width 2; both joined to x.
  want = 2 * 8 * 6 + 2 * 2 * 8 * 8 + 2 * 2 * 40 + 2 * 2 * 8 * 2
  assert count(model, segment=4).vocabulary == want


@pytest.mark.parametrize(
  'ffn, gate, keys',
  [
    (Relu(), Residual(zero_start=True), None),
    (Swiglu(), GRUGate(zero_start=True), None),
    (Geglu(bias=True), SigmoidTanhGate(), 1),
    (Relu(bias=False), InputGate(), 2),
  ],
)
def test_every_matrix_of_a_layer_is_multiplied_by_every_token(ffn, gate, keys):
  """Twice its size, whatever it is for; distances are not tokens."""
  model = tiny.transformer_xl(num_heads=4)
  stack = dataclasses.replace(model.stack, ffn=ffn, gate=gate)
  model = dataclasses.replace(model, stack=stack, heads=Heads(keys=keys))
  shapes = jax.eval_shape(model.init_params, jax.random.key(0))['layers']
  axes, sizes = model.axes()['layers'], {}
  for part in ('attention', 'ffn', 'gate_0', 'gate_1'):
    sizes[part] = sum(
      math.prod(leaf.shape)
      for name, leaf in shapes.get(part, {}).items()
      if is_matrix(axes[part][name])
    )
  flops = count(model, segment=4)
  assert flops.projections == 2 * sizes['attention']
  assert flops.ffn == 2 * sizes['ffn']
  assert flops.gates == 2 * (sizes['gate_0'] + sizes['gate_1'])
  key_and_value = sum(
    shapes['attention'][name].size for name in ('key', 'value')
  )
  assert flops.reprojection == 2 * key_and_value * model.memory.length / 4


def everything_seen(params, x_TD, memory_MD, target_TD):
  """One layer and a vocabulary, written with plain products."""
  both_SD = jnp.concatenate([memory_MD, x_TD])
  q_TNH = jnp.einsum('td,dnh->tnh', x_TD, params['q'])
  k_SNH = jnp.einsum('sd,dnh->snh', both_SD, params['k'])
  v_SNH = jnp.einsum('sd,dnh->snh', both_SD, params['v'])
  attend_NTS = jnp.einsum('tnh,snh->nts', q_TNH, k_SNH)
  y_TNH = jnp.einsum('nts,snh->tnh', attend_NTS, v_SNH)
  x_TD += jnp.einsum('tnh,nhd->td', y_TNH, params['o'])
  x_TD += (x_TD @ params['in']) @ params['out']
  return ((x_TD @ params['table'].T @ params['table']) * target_TD).sum()


def test_forward_and_training_agree_with_xla():
  shapes = {
    'q': (D, N, H), 'k': (D, N, H), 'v': (D, N, H), 'o': (N, H, D),
    'in': (D, F), 'out': (F, D), 'table': (V, D),
  }  # fmt: skip
  args = (
    {k: jnp.ones(s) for k, s in shapes.items()},
    jnp.ones((T, D)),
    jnp.ones((M, D)),
    jnp.ones((T, D)),
  )
  model = Decoder(
    embed=Embedding(width=D, vocab=V),
    stack=Stack(depth=1, num_heads=N, head_width=H, ffn_width=F),
    position=NoPosition(),
    pattern=Everything(),
    memory=XLCache(M),
  )
  flops = count(model, segment=T)

  def xla(function):
    cost = jax.jit(function).lower(*args).compile().cost_analysis()
    return cost['flops'] / T

  # The table is multiplied by twice, to keep its gradient.
  forward = flops.forward + flops.vocabulary
  want = forward + flops.reprojection
  assert xla(everything_seen) == pytest.approx(want, rel=0.03)
  gradient = jax.grad(everything_seen, argnums=(0, 1))
  # Memory stands still: its gradient goes to the weights only.
  want = 3 * forward + 2 * flops.reprojection
  assert xla(gradient) == pytest.approx(want, rel=0.03)


def devices(kind, number=1):
  return [types.SimpleNamespace(device_kind=kind)] * number


@pytest.mark.parametrize(
  'kind, peak',
  [
    ('TPU v4', 275e12),
    ('TPU v5 lite', 197e12),
    ('TPU v5', 459e12),
    ('TPU v5p', 459e12),
    ('TPU v6 lite', 918e12),
    ('NVIDIA A100-SXM4-80GB', 312e12),
    ('NVIDIA H100 80GB HBM3', 989e12),
    ('NVIDIA H100 PCIe', 756e12),
    ('NVIDIA H200', 989e12),
    ('NVIDIA B200', 2250e12),
  ],
)
def test_half_of_the_peak_of_two_devices_is_one_device_at_full_speed(
  kind, peak
):
  assert utilisation(peak, devices(kind, 2)) == 0.5


def test_a_device_without_a_published_peak_has_no_utilisation():
  assert utilisation(1e12, jax.devices()) is None
  assert utilisation(1e12, devices('TPU v6') + devices('TPU v4')) is None
