"""FLOPs: by hand, by XLA where nothing is scanned, and of devices."""

import types

import jax
import jax.numpy as jnp
import pytest

from lctx.training.flops import Bin, Reading, Sizes, count, utilisation

T, M, D, N, H, F, V = 64, 32, 128, 4, 32, 256, 200


def test_a_small_model_counted_by_hand():
  sizes = Sizes(
    depth=2, width=4, num_heads=2, head_width=3, ffn_width=10,
    bins=(Bin(rows=7, width=4),),
  )  # fmt: skip
  flops = count(sizes, Reading(segment=3, memory=2, rows=5))
  # Queries see 3, 4 and 5 keys: 4 on average, where T + M is 5.
  assert flops.projections == 2 * (4 * 2 * 4 * 6)
  assert flops.attention == 2 * (2 * 2 * 6 * 4)
  assert flops.relative == 2 * (2 * 6 * 4 + 2 * 4 * 6 * 5 / (3 * 5))
  assert flops.ffn == 2 * (2 * 2 * 4 * 10)
  assert flops.vocabulary == 2 * 4 * 7
  assert flops.forward == 384 + 192 + 96 + 32 + 320 + 56
  assert flops.train == 3 * flops.forward
  assert flops.reprojection == 2 * (2 * 2 * 4 * 6) * 2 / 3
  assert flops.hardware == flops.train + 2 * flops.reprojection


def test_a_query_sees_what_its_mask_lets_it_see():
  assert Reading(segment=5, memory=7).visible == (5 + 1) / 2 + 7
  assert Reading(segment=5, memory=7, causal=False).visible == 12
  assert Reading(segment=5, memory=7, window=7).visible == 7
  # Without memory the first queries have less than a window behind them.
  assert Reading(segment=4, window=2).visible == (1 + 2 + 2 + 2) / 4


def test_an_adaptive_softmax_counts_a_bin_as_often_as_it_is_met():
  dense = Sizes(1, 8, 2, 4, 16, (Bin(rows=10, width=8),))
  adaptive = Sizes(
    1,
    8,
    2,
    4,
    16,
    (Bin(rows=5, width=8), Bin(40, 2, projected=True, share=0.25)),
  )
  reading = Reading(segment=4)
  want = 2 * 8 * 5 + 0.25 * (2 * 2 * 40 + 2 * 2 * 8 * 2)
  assert count(dense, reading).vocabulary == 2 * 8 * 10
  assert count(adaptive, reading).vocabulary == want


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
  # The table counts twice: it is multiplied by twice, to keep its gradient.
  bins = (Bin(V, D), Bin(V, D))
  sizes = Sizes(1, D, N, H, F, bins, relative=False)
  flops = count(sizes, Reading(segment=T, memory=M, causal=False))

  def xla(function):
    cost = jax.jit(function).lower(*args).compile().cost_analysis()
    return cost['flops'] / T

  forward = flops.forward + flops.reprojection
  assert xla(everything_seen) == pytest.approx(forward, rel=0.03)
  gradient = jax.grad(everything_seen, argnums=(0, 1))
  assert xla(gradient) == pytest.approx(flops.hardware, rel=0.03)


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
