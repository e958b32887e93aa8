"""Fifty random official models give what the equations of the paper give."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import reference
import tiny

from lctx.interop import transformer_xl as interop
from lctx.types import segment_coords


@functools.partial(tiny.quick_jit, static_argnums=0)
def segment(model, params, tokens, targets, carry):
  at = segment_coords(jnp.zeros_like(tokens))
  hidden, carry, _ = model.apply({'params': params}, tokens, at, carry)
  nll = model.apply({'params': params}, hidden, targets, method='nll')
  return nll, hidden, carry


@pytest.mark.parametrize('seed', range(20))
def test_a_random_official_model_agrees_with_the_paper(seed, close):
  rng = np.random.default_rng(1000 + seed)
  config = reference.random_config(rng)
  arrays = reference.random_params(config, rng)
  length = config['tgt_len'] * config['segments']
  ids = rng.integers(0, config['n_token'], (2, length + 1))
  want = reference.transformer_xl(arrays, config, ids)
  model = interop.model_for(config, arrays)
  params = interop.read(arrays, model)
  carry, nll, hidden = model.initial(2), [], []
  for start in range(0, length, config['tgt_len']):
    tokens = ids[:, start : start + config['tgt_len'] + 1]
    losses, states, carry = segment(
      model, params, tokens[:, :-1], tokens[:, 1:], carry
    )
    nll.append(losses)
    hidden.append(states)
  close(np.concatenate(nll, axis=1), want.nll)
  close(np.concatenate(hidden, axis=1), want.hidden)
  for layer, mems in enumerate(want.mems[:-1]):
    held = carry.layers[0].memory.states[layer]
    close(held[:, held.shape[1] - mems.shape[1] :], mems)
    empty = np.asarray(carry.layers[0].memory.at.document[layer]) < 0
    assert (empty.sum(axis=1) == held.shape[1] - mems.shape[1]).all()
