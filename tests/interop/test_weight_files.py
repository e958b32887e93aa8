"""Both spellings of published weights, what may be absent, what is refused."""

import numpy as np
import pytest
import reference
import tiny
from safetensors.numpy import save_file

from lctx.interop import transformer_xl as interop

CONFIG = {
  'n_token': 23,
  'n_layer': 3,
  'n_head': 2,
  'd_model': 10,
  'd_head': 3,
  'd_inner': 12,
  'tie_weight': True,
  'd_embed': 8,
  'div_val': 2,
  'tie_projs': [False, True, True],
  'pre_lnorm': False,
  'cutoffs': [7, 15],
  'attn_type': 0,
  'tgt_len': 4,
  'mem_len': 5,
  'same_length': False,
  'clamp_len': -1,
}


def official(config=CONFIG):
  arrays = reference.random_params(config, np.random.default_rng(0))
  return {name: np.float32(array) for name, array in arrays.items()}


def released(arrays):
  """The names of `transfo-xl-wt103` for official arrays."""
  found = {}
  for name, array in arrays.items():
    if name in ('r_w_bias', 'r_r_bias'):
      for layer in range(CONFIG['n_layer']):
        found[f'transformer.layers.{layer}.dec_attn.{name}'] = array
    elif name.startswith('crit.cluster'):
      found[name] = array[::-1]
    else:
      found[name if name.startswith('crit') else f'transformer.{name}'] = array
  return found


def read(arrays, config=CONFIG):
  model = interop.model_for(config, arrays)
  return model, interop.read(arrays, model)


def log_probs(arrays):
  model, params = read(arrays)
  ids = np.arange(12, dtype=np.int32).reshape(2, 6)

  hidden, _ = tiny.jitted_segment(
    model, params, ids, np.zeros_like(ids), model.initial(2)
  )
  return tiny.log_probs(model, params, hidden)


def test_the_released_spelling_comes_back_as_it_went_in():
  arrays = released(official())
  for layer in range(CONFIG['n_layer']):  # its biases differ between layers
    arrays[f'transformer.layers.{layer}.dec_attn.r_w_bias'] += layer
  model, params = read(arrays)
  back = interop.write(params, model, interop.RELEASED)
  arrays.pop('transformer.pos_emb.inv_freq')
  assert set(back) == set(arrays)
  for name, array in arrays.items():
    np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_both_spellings_of_one_model_give_the_same_probabilities(close):
  arrays = official()
  close(log_probs(released(arrays)), log_probs(arrays))


def test_tied_names_and_the_table_of_frequencies_may_be_absent():
  arrays = official()
  fewer = {
    name: array
    for name, array in arrays.items()
    if name not in reference.ties(CONFIG) and name != 'pos_emb.inv_freq'
  }
  assert len(fewer) == len(arrays) - 6
  _, want = read(arrays)
  _, got = read(fewer)
  for name, array in want['vocabulary'].items():
    np.testing.assert_array_equal(got['vocabulary'][name], array, err_msg=name)


def test_an_error_lists_every_name_that_does_not_fit():
  arrays = official()
  missing = 'layers.1.dec_attn.r_net.weight'
  del arrays[missing]
  arrays['layers.3.surplus'] = np.zeros(3)
  arrays['crit.cluster_bias'] = np.zeros(5)
  arrays['crit.out_layers.1.weight'] = arrays['crit.out_layers.1.weight'] + 1
  with pytest.raises(ValueError) as error:
    read(arrays)
  for words in (
    f'{missing} is missing',
    'layers.3.surplus is unexpected',
    'crit.cluster_bias has shape (5,), the model needs (2,)',
    'crit.out_layers.1.weight differs from word_emb.emb_layers.1.weight',
  ):
    assert words in str(error.value)


def test_weights_of_a_deeper_model_are_refused():
  with pytest.raises(ValueError, match=r'layers\.2\.\S+ is unexpected'):
    read(official(), CONFIG | {'n_layer': 2})


def test_an_error_shows_the_first_names_and_counts_the_others():
  with pytest.raises(ValueError) as error:
    read({}, CONFIG)
  assert str(error.value).count(' is missing; ') == 6
  count = len(reference.shapes(CONFIG)) - 1 - len(reference.ties(CONFIG))
  assert f'; and {count - 6} more. Give the model' in str(error.value)


def test_absolute_positions_are_refused():
  with pytest.raises(ValueError, match='attn_type = 2'):
    interop.model_for(CONFIG | {'attn_type': 2}, {})


def test_both_kinds_of_file_give_the_arrays(tmp_path):
  arrays = official()
  np.savez(tmp_path / 'weights.npz', **arrays)
  save_file(arrays, tmp_path / 'weights.safetensors')
  for name in ('weights.npz', 'weights.safetensors'):
    found = interop.load(tmp_path / name)
    assert set(found) == set(arrays)
    for key, array in arrays.items():
      np.testing.assert_array_equal(found[key], array, err_msg=key)


def test_a_pickle_is_refused_unread(tmp_path):
  path = tmp_path / 'pytorch_model.bin'
  path.write_bytes(b'\x80\x04.')
  with pytest.raises(ValueError, match='can run code'):
    interop.load(path)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'no file .*lost\.npz'):
    interop.load(tmp_path / 'lost.npz')
