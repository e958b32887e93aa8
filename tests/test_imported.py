"""Published weights become a workdir that evaluation and training take."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

import lctx
from lctx.config import load
from lctx.errors import UserError
from lctx.imported import import_weights
from lctx.interop import transformer_xl as interop
from lctx.interop.transformer_xl_names import RELEASED
from lctx.types import segment_coords

ROOT = Path(__file__).parent.parent
PATH = 'configs/wt103_large_eval.py'


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """And fast compilation: these programs run once."""
  first = jax.devices()[:1]
  monkeypatch.setattr(jax, 'devices', lambda: first)
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture
def small(tmp_path):
  """Overrides of the shipped config: a short text and small sizes."""
  folder = tmp_path / 'text'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for split, count in (('train', 60), ('valid', 9), ('test', 9)):
    words = rng.integers(0, 40, (count, 5)) ** 2 // 40
    words[:8] = np.arange(40).reshape(8, 5)  # each at least once
    lines = [' '.join(f'w{word}' for word in line) for line in words]
    (folder / f'wiki.{split}.tokens').write_text('\n'.join(lines) + '\n')
  return {
    'model.embed.width': '16',
    'model.stack.depth': '2',
    'model.stack.num_heads': '2',
    'model.stack.head_width': '4',
    'model.stack.ffn_width': '16',
    'model.memory.length': '8',
    'model.embed.cutoffs': '8,16,24',
    'model.embed.div_val': '2',
    'model.compute.remat_layers': 'false',
    'data.corpus.path': str(folder),
    'data.rows': '8',
    'data.segment': '8',
    'eval.segment': '8',
    'eval.memory': '8',
    'eval.clamp': '6',
    'eval.rows': '1',
  }


@pytest.fixture
def weights(small, tmp_path):
  """Random ones under the names of the release, and the model they fit."""
  model = load(ROOT / PATH, small).model.with_vocabulary(41)
  params = tiny.large_params(model)
  path = tmp_path / 'weights.safetensors'
  arrays = interop.write(params, model, RELEASED)
  save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)
  return path, model, params


def test_the_command_makes_a_workdir_that_gives_their_perplexity(
  small, weights, tmp_path, close
):
  path, model, params = weights
  workdir = tmp_path / 'run'
  command = [sys.executable, '-m', 'lctx.imported', f'--config={PATH}']
  command += [f'--weights={path}', f'--workdir={workdir}']
  command += [f'--config.{name}={value}' for name, value in small.items()]
  quick = os.environ | {'XLA_FLAGS': tiny.QUICK}
  subprocess.run(command, cwd=ROOT, check=True, env=quick)

  got = lctx.evaluate(workdir)
  loaded = lctx.load(workdir)
  text = Path(small['data.corpus.path'], 'wiki.test.tokens').read_bytes()
  ids = jnp.asarray(loaded.encode(text))[None]
  same = dataclasses.replace(model.memory, same_length=True)  # one full pass
  clamp = dataclasses.replace(model.position, clamp=6)
  whole = dataclasses.replace(model, memory=same, position=clamp)
  at = segment_coords(jnp.zeros_like(ids[:, :-1]))
  variables = {'params': params}
  hidden, _, _ = whole.apply(variables, ids[:, :-1], at, whole.initial(1))
  nll = whole.apply(variables, hidden, ids[:, 1:], method='nll')
  assert got.units.tokens == nll.size == 9 * 6
  close(np.log(got.units.token_perplexity), nll.mean())


def test_training_goes_on_from_imported_weights(small, weights, tmp_path):
  path, _, params = weights
  workdir = tmp_path / 'run'
  still = {'optimizer.peak': '1e-12', 'train.steps': '1'}
  config = load(ROOT / PATH, small | still)
  import_weights(path, config, workdir)
  lctx.train(config, workdir)
  loaded = lctx.load(workdir)
  assert loaded.step == 1
  for got, want in zip(*map(jax.tree.leaves, (loaded.params, params))):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)
  with pytest.raises(UserError, match=r'workdir = .* has checkpoints'):
    import_weights(path, config, workdir)


@pytest.mark.parametrize(
  'change, words',
  [
    ({'data.tokenizer.min_count': '3'}, ['vocabulary of 41', 'tokenizer']),
    ({'model.stack.depth': '3'}, ['do not fit', 'layers.2', 'missing']),
  ],
)
def test_weights_that_do_not_fit_are_refused(
  small, weights, tmp_path, change, words
):
  config = load(ROOT / PATH, small | change)
  with pytest.raises(UserError) as error:
    import_weights(weights[0], config, tmp_path / 'run')
  for word in words:
    assert word in str(error.value)
