"""BigBird by blocks: what makes its numbers, and how it is trained on."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from lctx import overrides
from lctx.interop import hugging_face
from lctx.models.tasks import QuestionSpans
from lctx.patterns import BlockSparse, Everything
from lctx.training.flops import count
from lctx.types import segment_coords

GOLDEN = Path(__file__).parent.parent / 'golden' / 'hf'
SPARSE = {
  'big_bird_sparse': ('last_hidden_state', 2),
  'big_bird_whole_blocks': ('logits', 1),
}
SEEDED = {'pattern.seed': '0', 'pattern.heads': '4'}


@pytest.mark.parametrize('name', SPARSE)
def test_no_other_pattern_gives_its_numbers(name):
  """Such as the first block counted once, drawn ones, or no switch of ends."""
  field, random = SPARSE[name]
  published = hugging_face.load(GOLDEN / name)
  pattern = published.model.pattern
  assert pattern == BlockSparse(block=4, random=random, seed=None)
  with np.load(GOLDEN / name / 'case.npz') as file:
    case = dict(file)
  mask, want = case['attention_mask'] > 0, case[f'expected/{field}']

  def worst(other):
    model = published.model.clone(pattern=other)

    def read(params):
      changed = published._replace(model=model, params=params)
      return hugging_face.outputs(changed, case)[field]

    found = np.asarray(tiny.quick_jit(read)(published.params))
    return np.abs(found - want)[mask].max()

  assert worst(pattern) < 1e-4
  for changed in ({'random': 0}, {'seed': 0}, {'near': 0}, {'blocks': 9}):
    assert worst(dataclasses.replace(pattern, **changed)) > 1e-2, changed
  assert worst(Everything()) > 1e-2


def test_segments_that_are_short_are_seen_whole():
  """As many as the published code sees whole, and not one more."""
  model = hugging_face.load(GOLDEN / 'big_bird_short').model
  whole = (5 + 2 * 3) * 4
  assert model.pattern.of_length(whole) == Everything()
  assert model.pattern.of_length(whole + 1) != Everything()


@pytest.mark.parametrize('given', ({}, SEEDED), ids=('first', 'drawn'))
def test_every_parameter_learns_by_blocks(given):
  """Its own, or those that are drawn once: the overrides that say so."""
  _, model, params, _ = hugging_face.load(GOLDEN / 'big_bird_whole_blocks')
  model = overrides.override(model, given)
  assert model.pattern.counts == (not given)
  ids = tiny.some_ids(2, 64, 61)
  at = segment_coords(jnp.zeros_like(ids))

  def loss(params):
    own = {'params': params}
    hidden, _, _ = model.apply(own, ids, at, model.initial(2))
    return model.apply(own, hidden, ids, method='nll').mean()

  slopes = jax.tree.leaves_with_path(tiny.quick_jit(jax.grad(loss))(params))
  for path, slope in slopes:
    assert np.isfinite(slope).all() and np.abs(slope).max() > 1e-6, path


def test_operations_are_those_of_the_keys_that_blocks_see():
  model = hugging_face.load(GOLDEN / 'big_bird_sparse').model
  whole = model.clone(pattern=Everything())
  sparse, full = (count(x, 64).attention for x in (model, whole))
  plan = model.pattern.of_length(64).plan()
  assert sparse == pytest.approx(full * plan.mean()) and not plan.all()


def test_a_model_with_drawn_blocks_is_written_as_a_published_one(tmp_path):
  kind, model, params, like = hugging_face.load(
    GOLDEN / 'big_bird_whole_blocks'
  )
  drawn = overrides.override(model, SEEDED)
  hugging_face.save(tmp_path, drawn, params, kind, like=like)
  assert hugging_face.load(tmp_path).model == model
  wide = overrides.override(model, {'pattern.near': '2'})
  with pytest.raises(ValueError, match=r'model\.pattern = .*would come back'):
    hugging_face.save(tmp_path / 'x', wide, params, kind)


@pytest.mark.parametrize('name', ('bert', 'big_bird_whole_blocks'))
def test_two_heads_of_pretraining_are_read_as_that_of_words(
  name, tmp_path, caplog
):
  folder = Path(shutil.copytree(GOLDEN / name, tmp_path / name))
  wanted = hugging_face.load(folder)
  kind = wanted.architecture
  path = folder / 'config.json'
  said = json.loads(path.read_text())
  said['architectures'] = [kind.replace('MaskedLM', 'PreTraining')]
  path.write_text(json.dumps(said))
  arrays = load_file(folder / 'model.safetensors')
  arrays['cls.seq_relationship.weight'] = np.ones((2, 24), np.float32)
  save_file(arrays, folder / 'model.safetensors')
  with caplog.at_level('INFO'):
    found = hugging_face.load(folder)
  assert 'cls.seq_relationship.weight; not read' in caplog.text
  assert found.architecture == kind and found.model == wanted.model
  jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)


def test_an_answer_does_not_lie_in_its_question():
  """Which ends with the first [SEP]; where none is given, there is none."""
  published = hugging_face.load(GOLDEN / 'big_bird_span')
  ids = np.array([[1, 7, 8, 2, 9, 2], [1, 7, 8, 9, 9, 9]])
  found = hugging_face.outputs(published, {'input_ids': ids})
  for name in ('start_logits', 'end_logits'):
    hidden = np.asarray(found[name]) < -1e5
    assert hidden.tolist() == [[0, 1, 1, 1, 0, 0], [0] * 6]


def test_the_width_of_its_head_is_checked():
  with pytest.raises(ValueError, match=r'model\.task\.hidden = 0'):
    QuestionSpans(hidden=0)
