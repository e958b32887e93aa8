"""Published weights give published numbers; files go in and out unchanged."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lctx.interop import transformer_xl as interop
from lctx.models.segments import merge, scan_segments, split
from lctx.types import segment_coords

HERE = Path(__file__).parent.parent / 'golden' / 'transformer_xl'
FOLDER = Path(os.environ.get('LCTX_GOLDEN_TXL', HERE))
FILES = sorted(FOLDER.glob('*.npz'))


def case(path):
  """Config, official parameters, and everything else of one golden file."""
  with np.load(path) as file:
    arrays = dict(file)
  config = json.loads(str(arrays.pop('config')))
  params = {
    name.removeprefix('param/'): arrays.pop(name)
    for name in list(arrays)
    if name.startswith('param/')
  }
  return config, params, arrays


def run(model, params, ids, segment):
  """nll, hidden and carry, segment by segment under lax.scan."""

  def step(carry, tokens):
    x, y = tokens
    at = segment_coords(jnp.zeros_like(x))
    hidden, carry, _ = model.apply({'params': params}, x, at, carry)
    nll = model.apply({'params': params}, hidden, y, method='nll')
    return carry, (nll, hidden)

  ids = jnp.asarray(ids)
  segments = split((ids[:, :-1], ids[:, 1:]), segment)
  carry = model.initial(ids.shape[0])
  carry, out = scan_segments(step, carry, segments)
  nll, hidden = merge(out)
  return nll, hidden, carry


def test_there_are_golden_files():
  assert FILES, f'no .npz in {FOLDER}'


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_the_published_code_gives_the_same(path, close):
  config, arrays, want = case(path)
  model = interop.model_for(config, arrays)
  params = interop.read(arrays, model)

  def loss(params):
    nll, hidden, carry = run(model, params, want['ids'], config['tgt_len'])
    segments = nll.shape[1] // config['tgt_len']
    return nll.mean() * segments, (nll, hidden, carry)

  compute = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (total, (nll, hidden, carry)), grads = compute(params)
  close(nll, want['nll'])
  close(hidden, want['hidden'])
  close(total, want['loss'])
  held = carry.layers[0].memory
  memory, memory_at = held.states, held.at
  for layer in range(config['n_layer']):
    mems = want[f'mems/{layer}']
    close(memory[layer][:, memory.shape[2] - mems.shape[1] :], mems)
    filled = np.asarray(memory_at.document[layer] >= 0).sum(axis=1)
    assert (filled == mems.shape[1]).all()
  last = want[f'mems/{config["n_layer"]}']
  close(hidden[:, hidden.shape[1] - last.shape[1] :], last)
  got = interop.write(grads, model)
  for name in want:
    if name.startswith('grad/'):
      close(got[name.removeprefix('grad/')], want[name])


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_weights_come_back_as_they_went_in(path):
  config, arrays, _ = case(path)
  model = interop.model_for(config, arrays)
  back = interop.write(interop.read(arrays, model), model)
  arrays.pop('pos_emb.inv_freq', None)
  assert set(back) == set(arrays)
  for name, array in arrays.items():
    np.testing.assert_array_equal(back[name], array, err_msg=name)
