"""Fused attention is as defined, on each back end, whatever the platform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flash_cases import (
  REACHED,
  N,
  attended,
  causal,
  defined,
  dilated,
  everything,
  planned,
  seeds,
  some,
  staircase,
  window,
)

from lctx.kernels.flash_gpu import GpuFlash
from lctx.kernels.flash_tpu import TpuFlash

BACK_ENDS = {'tpu': TpuFlash, 'gpu': GpuFlash}
ALL = ['times', 'cap', 'plus']
# Of 13 queries against 29 keys, those of the first block see keys 10 to 23.
WALK = {'first': (1, 2), 'end': (3, 4)}
EVEN, WIDE, TALL = 'even', 'wide', 'tall'  # tiles
SIDES = {
  'tpu': {EVEN: (8, 8), WIDE: (8, 16), TALL: (16, 8)},
  'gpu': {EVEN: (8, 8), WIDE: (16, 16), TALL: (16, 4)},
}
CASES = {
  'plain': (causal, WIDE, {'relative': False}, {}),
  'window': (window, EVEN, {}, WALK),
  'staircase': (staircase, TALL, {'c': True, 'group': 2}, {}),
  'everything': (everything, TALL, {'group': 4}, {}),
  'by head': (dilated, WIDE, {'relative': False, 'c': True}, {}),
  'one query': (causal, EVEN, {'queries': 1, 'c': True}, {}),
  'dropped': (causal, WIDE, {'group': 2, 'steps': ['cap']}, {'rate': 0.3}),
  'whole tiles': (window, EVEN, {'queries': 16, 'keys': 16}, {}),
  'all steps, dropped': (
    window,
    EVEN,
    {'relative': False, 'steps': ALL},
    {'rate': 0.3, **WALK},
  ),
  'all steps, relative': (staircase, TALL, {'c': True, 'steps': ALL}, {}),
  'looked up for each head': (planned, WIDE, {'tables': N}, {}),
  'looked up for all heads': (planned, TALL, {'tables': 1}, {}),
}


@pytest.fixture(params=BACK_ENDS)
def flash(request):
  """A back end's attention: flash(visible, tile, **fields)."""
  cls, sides = BACK_ENDS[request.param], SIDES[request.param]

  def made(visible, tile, **fields):
    return cls(visible, *sides[tile], **fields, interpret=True)

  return made


@pytest.mark.parametrize('case', CASES)
def test_attention_and_all_its_gradients_are_as_defined(flash, case, close):
  visible, tile, given, fields = CASES[case]
  inputs, rate = some(**given), fields.get('rate', 0.0)
  want = attended(functools.partial(defined, visible, rate), inputs)
  if rate:
    inputs = inputs._replace(seeds=seeds())
  got = attended(flash(visible, tile, **fields), inputs)
  jax.tree.map(close, got, want)


def test_blocks_of_keys_out_of_bounds_are_not_met(flash, close):
  bounded = flash(everything, EVEN, first=(2, 0), end=(4, 0))
  y = tiny.quick_jit(bounded)(some())
  second = some()._replace(
    **{name: getattr(some(), name)[:, 16:] for name in 'kv'}
  )
  second = second._replace(k_place=some().k_place[..., 16:], r=some().r[16:])
  want = defined(everything, 0, second)
  close(y[:, :8], want[:, :8])
  assert not y[:, 8:].any()


def test_nothing_met_is_nothing_moved(flash):
  nothing = flash(everything, EVEN, first=(0, 0), end=(0, 0))
  found = attended(nothing, some(c=True, steps=ALL))
  assert not any(a.any() for a in jax.tree.leaves(found))


def test_a_query_that_sees_nothing_gets_zeros(flash):
  found = attended(flash(causal, EVEN), some(c=True, empty=True, steps=ALL))
  assert not any(a.any() for a in jax.tree.leaves(found))


def test_short_numbers_give_nearly_the_same_and_stay_short(flash, close):
  inputs = some(group=2)
  short = {name: getattr(inputs, name) for name in REACHED[:5]}
  short = {name: a.astype(jnp.bfloat16) for name, a in short.items()}
  y, grads = attended(flash(causal, EVEN), inputs._replace(**short))
  want = attended(functools.partial(defined, causal, 0), inputs)
  for a, b in zip(*map(jax.tree.leaves, ((y, grads), want)), strict=True):
    assert a.dtype == jnp.bfloat16
    close(np.float32(a), b, 0.05)  # eight bits of mantissa


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'qr': None}, 'qr and r meet each other'),
    ({'r': some().r[:13]}, r'r has 13 rows, but 13 queries and 29 keys'),
    ({'seeds': seeds()}, 'dropout together'),
  ],
)
def test_inputs_that_do_not_go_together_are_refused(flash, fields, message):
  with pytest.raises(ValueError, match=message):
    flash(causal, EVEN)(some()._replace(**fields))
