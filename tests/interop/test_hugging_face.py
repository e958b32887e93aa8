"""Published models give what their own library gives, and are written back.

`tests/golden/hf_cases.py` made the cases. LCTX_GOLDEN_HF names another folder
of such cases.
"""

import functools
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from lctx.interop import hugging_face
from lctx.interop.family import check_exports
from lctx.memory import Infini
from lctx.models.tasks import Words
from lctx.models.text import Decoder
from lctx.patterns import Dilated

OURS = Path(__file__).parent.parent / 'golden' / 'hf'
GOLDEN = Path(os.environ.get('LCTX_GOLDEN_HF', OURS))
CASES = sorted(path.parent.name for path in GOLDEN.glob('*/case.npz'))
HIDDEN = -1e5  # logits below are of what cannot be chosen
assert CASES, f'LCTX_GOLDEN_HF = {GOLDEN} holds no CASE/case.npz'


def outputs(published, given):
  """Compiled without the work that makes it fast."""

  def read(params):
    return hugging_face.outputs(published._replace(params=params), given)

  return tiny.quick_jit(read)(published.params)


@functools.partial(tiny.quick_jit, static_argnums=0)
def logits(model, params, hidden):
  return model.apply({'params': params}, hidden, method='logits')


def case_of(name):
  with np.load(GOLDEN / name / 'case.npz') as file:
    return dict(file)


@functools.cache
def loaded(name):
  return hugging_face.load(GOLDEN / name)


@pytest.mark.parametrize('name', CASES)
def test_it_gives_what_its_own_library_gives(name):
  names = json.loads((GOLDEN / name / 'config.json').read_text())
  known = {*names['architectures']} & {*hugging_face.FAMILIES}
  if not known and GOLDEN != OURS:
    pytest.skip(f'{names["architectures"]} are not read')
  case, published = case_of(name), loaded(name)
  given = {x: y for x, y in case.items() if not x.startswith('expected/')}
  found = outputs(published, given)
  wanted = {x for x in case if x.startswith('expected/')}
  assert wanted
  for field in wanted:
    got, want = np.asarray(found[field.split('/')[1]]), case[field]
    rows = case['input_ids'].shape
    mask = case.get('attention_mask', np.ones(rows)) > 0
    if want.shape[:2] == rows:
      got, want = got[mask], want[mask]
    hidden = want < HIDDEN
    np.testing.assert_array_equal(got < HIDDEN, hidden)
    got, want = got[~hidden], want[~hidden]
    worst = np.abs(got - want).max()
    assert worst <= 2e-5 * max(1, np.abs(want).max()), (field, worst)


def of_segments():
  """A case or two of each decoder; `pytest -m grid` has the others."""
  chosen = (
    *('gpt2', 'llama', 'llama_yarn', 'llama_dynamic_long', 'mistral_window'),
    *('llama_longrope_long', 'qwen2_first_layers', 'qwen3', 'gemma_2_in_turn'),
    *('gemma_3_window', 'gpt_neox', 'bloom'),
  )
  for name in CASES if GOLDEN == OURS else []:
    marks = [] if name in chosen else [pytest.mark.grid]
    yield pytest.param(name, marks=marks)


@pytest.mark.parametrize('name', of_segments())
def test_segments_with_its_cache_are_one_window(name, close):
  _, model, params, _ = loaded(name)
  if not isinstance(model, Decoder):
    pytest.skip('an encoder reads in one window')
  if not isinstance(model.task, Words):
    pytest.skip('its body has a case of its own')
  ids = jnp.asarray(case_of(name)['input_ids'][:1], jnp.int32)
  whole, _ = tiny.loop(model, params, ids, [37])
  parts, _ = tiny.loop(model, params, ids, [16, 16, 5])
  close(logits(model, params, parts), logits(model, params, whole))


@pytest.mark.parametrize('name', [x for x in CASES if GOLDEN == OURS])
def test_what_is_written_is_what_was_read(name, tmp_path):
  kind, model, params, config = loaded(name)
  hugging_face.save(tmp_path, model, params, kind, like=config)
  want = load_file(GOLDEN / name / 'model.safetensors')
  got = load_file(tmp_path / 'model.safetensors')
  assert got.keys() == want.keys()
  unused = hugging_face.FAMILIES[kind].unused(model)
  for key, value in want.items():
    if key in unused:
      continue
    np.testing.assert_array_equal(got[key], value, err_msg=key)
  again = hugging_face.load(tmp_path)
  check_exports(again.model, model, kind)
  assert again.model.dropout == model.dropout
  free = {'rope_parameters', 'dtype'}
  if not config.get('use_sliding_window', True):
    free |= {'sliding_window', 'max_window_layers'}  # which nobody uses then
  if config['model_type'] in ('t5', 'longt5'):
    free.add('tie_word_embeddings')  # old readers go by it, new ones do not
  for option in {*again.config} & {*config} - free:
    said, before = again.config[option], config[option]
    assert said == before or before is None, option


@pytest.mark.parametrize('name', ['gpt2', 'llama', 'gpt_neox', 'bart'])
def test_names_without_the_body_are_read_with_it(name, tmp_path):
  folder = Path(shutil.copytree(OURS / name, tmp_path / name))
  path, (kind, _, params, _) = folder / 'model.safetensors', loaded(name)
  body = hugging_face.FAMILIES[kind].body
  bare = {x.removeprefix(body): y for x, y in load_file(path).items()}
  assert bare.keys() != load_file(path).keys()
  save_file(bare, path)
  again = hugging_face.load(folder).params
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_without_an_id_of_padding_a_text_ends_where_the_mask_does():
  case, published = case_of('llama_texts'), loaded('llama_texts')
  assert case['input_ids'][0, -1] == published.config['pad_token_id']
  config = {x: y for x, y in published.config.items() if x != 'pad_token_id'}
  given = {x: case[x] for x in ('input_ids', 'attention_mask')}
  got = outputs(published._replace(config=config), given)['logits']
  off = np.abs(got - case['expected/logits']).max(axis=1)
  assert off[0] > 1e-2 and (off[1:] < 2e-5).all(), off


@pytest.fixture
def folder(tmp_path):
  """A published Llama, to do with as one likes."""
  return Path(shutil.copytree(OURS / 'llama', tmp_path / 'llama'))


def change(folder, **options):
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | options))


def refused(folder):
  with pytest.raises(ValueError) as error:
    hugging_face.load(folder)
  return str(error.value)


def test_names_that_do_not_fit_are_listed(folder):
  arrays = load_file(folder / 'model.safetensors')
  arrays['model.extra.weight'] = arrays.pop('model.norm.weight')
  query = 'model.layers.1.self_attn.q_proj.weight'
  arrays[query] = arrays[query][1:]
  save_file(arrays, folder / 'model.safetensors')
  said = refused(folder)
  assert 'model.norm.weight is missing' in said
  assert 'model.extra.weight is unexpected' in said
  assert f'{query} has shape (39, 24), the model needs (40, 24)' in said


@pytest.mark.parametrize(
  'options, words',
  [
    ({'rope_parameters': {'rope_type': 'zigzag'}}, "rope_type = 'zigzag'"),
    (
      {'rope_parameters': {'rope_type': 'linear', 'factor': 2, 'slope': 1}},
      'slope = 1',
    ),
    ({'hidden_act': 'mish'}, "hidden_act = 'mish'"),
    ({'router_z': 0.1}, 'not known here: router_z = 0.1'),
    ({'architectures': ['MambaForCausalLM']}, 'Known are'),
    ({'hidden_size': None}, 'has no hidden_size'),
  ],
)
def test_what_is_not_known_is_refused(folder, options, words):
  change(folder, **options)
  assert words in refused(folder)


def test_a_file_that_is_cut_off_or_not_there_is_told(folder):
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-100])
  assert f'{path} is damaged' in refused(folder)
  path.rename(folder / 'pytorch_model.bin')
  said = refused(folder)
  assert 'pytorch_model.bin, a pickle' in said and 'save_pretrained' in said
  (folder / 'pytorch_model.bin').unlink()
  assert 'has no model.safetensors' in refused(folder)
  (folder / 'config.json').write_text('{')
  assert 'config.json is damaged' in refused(folder)
  (folder / 'config.json').unlink()
  assert 'There is no file' in refused(folder)


def test_weights_may_lie_in_several_files_and_in_short_numbers(folder):
  arrays = load_file(folder / 'model.safetensors')
  names, index = sorted(arrays), {}
  for i, some in enumerate((names[::2], names[1::2])):
    file = f'model-0000{i + 1}-of-00002.safetensors'
    short = {x: jnp.asarray(arrays[x], jnp.bfloat16) for x in some}
    save_file(jax.tree.map(np.asarray, short), folder / file)
    index |= dict.fromkeys(some, file)
  (folder / 'model.safetensors').unlink()
  path = folder / 'model.safetensors.index.json'
  path.write_text(json.dumps({'weight_map': index}))
  got, want = hugging_face.load(folder).params, loaded('llama').params
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_array_equal(x, y.astype(jnp.bfloat16).astype(x.dtype))
  (folder / 'model-00002-of-00002.safetensors').unlink()
  assert 'though the index beside it names it' in refused(folder)


def test_a_model_that_its_files_cannot_say_is_not_written(tmp_path):
  _, model, params, _ = loaded('llama')
  odd = model.clone(pattern=Dilated(3, gaps=(1,) * 4))
  with pytest.raises(ValueError, match=r'model\.pattern = .*would come back'):
    hugging_face.save(tmp_path / 'x', odd, params, 'LlamaForCausalLM')
  with pytest.raises(ValueError, match='Known are'):
    hugging_face.save(tmp_path / 'x', model, params, 'MambaForCausalLM')
  infini = model.clone(memory=Infini())
  with pytest.raises(
    ValueError, match=r'model\.memory = Infini.* xlcache alone'
  ):
    hugging_face.save(tmp_path / 'x', infini, params, 'LlamaForCausalLM')
  more = {**params, 'extra': {'scale': jnp.ones(3)}}
  with pytest.raises(ValueError, match='extra/scale has no name'):
    hugging_face.save(tmp_path / 'x', model, more, 'LlamaForCausalLM')
  short = jax.tree.map(lambda x: x[..., :-1], params)
  with pytest.raises(
    ValueError, match=r'query has shape \(24, 4, 9\).* needs \(24, 4, 10\)'
  ):
    hugging_face.save(tmp_path / 'x', model, short, 'LlamaForCausalLM')
  assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize('other', hugging_face.FAMILIES)
@pytest.mark.parametrize(
  'name',
  [
    *('gpt2', 'gpt2_model', 'qwen3_biases', 'gemma_2', 'bloom'),
    *('longformer', 't5', 't5_texts', 'led', 'led_model'),
  ],
)
def test_a_model_of_another_family_is_not_written(name, other, tmp_path):
  kind, model, params, _ = loaded(name)
  if other == kind:
    return
  with pytest.raises(ValueError, match=r'model[. ]|parameters do not fit'):
    hugging_face.save(tmp_path, model, params, other)
