"""A whole run from Python: train, resume elsewhere, stop early, evaluate."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import programs
import pytest
import tiny

import lctx
from lctx.checkpoint import CheckpointStore
from lctx.errors import RunError
from lctx.run import prepared

ROOT = Path(__file__).parent.parent
STEPS = 40
WORDS = ['the ', 'memory ', 'of ', 'a ', 'long ', 'text ', 'ends.\n']


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  """A folder of documents whose words repeat, so that memory can help."""
  folder = tmp_path_factory.mktemp('text')
  random = np.random.default_rng(0)
  for number in range(24):
    chosen = random.choice(WORDS, size=3)
    words = random.choice(chosen, size=100 + 5 * number)
    (folder / f'{number:02}.txt').write_text(''.join(words))
  return folder


@pytest.fixture(scope='module')
def config(text):
  return lctx.Config(
    model=lctx.presets.transformer_xl(
      1, 16, num_heads=2, memory_length=8, ffn_width=16, memory_dropout=0.25
    ),
    data=lctx.Lanes(
      lctx.Text(str(text), lctx.ByDocument(0.2, 0.3)), rows=8, segment=8
    ),
    optimizer=lctx.Adam(peak=1e-2, schedule=lctx.Constant(), eps=1e-3),
    train=lctx.Training(steps=STEPS, ema=0.9, eval_every=20, valid_tokens=None),
    eval=lctx.Evaluation(rows=4),
    checkpoint=lctx.Checkpoints(every=20, keep_last=2),
    log=lctx.Logging(every=10),
    profile=True,
  )


@pytest.fixture(scope='module')
def trained(config, tmp_path_factory):
  """The folder of a run on eight devices, and what it found."""
  folder = tmp_path_factory.mktemp('run')
  return folder, lctx.train(config, folder)


@pytest.fixture
def copy(trained, tmp_path):
  return Path(shutil.copytree(trained[0], tmp_path / 'copy'))


def change(part, **fields):
  """With fields of parts, two levels deep: train={'steps': 2}."""
  return dataclasses.replace(
    part,
    **{
      name: change(getattr(part, name), **value)
      if isinstance(value, dict)
      else value
      for name, value in fields.items()
    },
  )


def records(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def restored(config, folder, step=None):
  run = prepared(config, folder)
  path = folder / 'checkpoints'
  with CheckpointStore(path, config.checkpoint) as store:
    return store.restore(run.abstract, step).state


def steps_of(folder):
  return sorted(int(path.name) for path in (folder / 'checkpoints').iterdir())


def test_a_run_leaves_all_that_was_promised(trained):
  folder, _ = trained
  for name in ('config.json', 'eval.json', 'curve.png', 'loss_by_distance.png'):
    assert (folder / name).stat().st_size > 0
  assert list((folder / 'tensorboard').glob('events.out.tfevents.*'))
  assert list((folder / 'profile').rglob('*.xplane.pb'))
  assert steps_of(folder) == [20, 40]


def test_metrics_say_how_the_run_went(trained):
  train = [r for r in records(trained[0]) if 'loss' in r]
  assert [r['step'] for r in train] == [10, 20, 30, 40]
  assert train[-1]['loss'] < train[0]['loss']
  for record in train:
    assert record['tokens'] == 64 * record['step']
    assert record['rate'] == pytest.approx(1e-2)
    assert record['skipped'] == 0
    for name in ('tokens_per_second', 'step_seconds', 'gradient_norm'):
      assert record[name] > 0
    assert record['data_seconds'] < record['step_seconds']
  valid = [r for r in records(trained[0]) if 'valid/bits_per_byte' in r]
  assert [r['step'] for r in valid] == [20, 40]


def test_what_train_returns_is_in_eval_json(trained):
  folder, result = trained
  saved = json.loads((folder / 'eval.json').read_text())
  assert saved['units'] == dataclasses.asdict(result.units)
  past = saved['comparison']['past']
  assert past['gain']['value'] == pytest.approx(
    past['none']['bits_per_byte']['value']
    - past['own']['bits_per_byte']['value']
  )


def test_the_average_is_what_is_loaded_and_evaluated(config, trained):
  folder, _ = trained
  state = restored(config, folder)
  loaded = lctx.load(folder, checkpoint='latest')
  jax.tree.map(np.testing.assert_array_equal, loaded.params, state.average)
  one, two = (p['vocabulary']['table_0'] for p in (state.params, loaded.params))
  assert np.abs(np.asarray(one) - np.asarray(two)).max() > 1e-4


def test_nothing_but_what_is_evaluated_is_read(trained, monkeypatch):
  def seen(self, wanted, *rest):
    asked.extend(wanted)
    return restore(self, wanted, *rest)

  asked, restore = [], CheckpointStore.restore
  monkeypatch.setattr(CheckpointStore, 'restore', seen)
  lctx.load(trained[0])
  assert asked == ['average']


def test_a_checkpoint_of_one_mesh_goes_on_on_another(config, trained, copy):
  shutil.rmtree(copy / 'checkpoints' / str(STEPS))
  other = change(
    config, mesh=lctx.Mesh(data=2, fsdp=4), eval={'tokens': 50}, profile=False
  )
  lctx.train(other, copy)
  one, two = restored(config, trained[0]), restored(other, copy)
  assert two.step == STEPS
  query = two.params['layers']['attention']['query']
  assert query.addressable_shards[0].data.size * 4 == query.size
  for name in ('params', 'average', 'carry'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
      getattr(one, name),
      getattr(two, name),
    )
  losses = [
    [r['loss'] for r in records(f) if 'loss' in r] for f in (trained[0], copy)
  ]
  np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.fixture(scope='module')
def stopped_early(config, tmp_path_factory):
  """Rates rise until the loss does: the best is not the last."""
  folder = tmp_path_factory.mktemp('early')
  bad = change(
    config,
    optimizer={'peak': 3.0, 'schedule': lctx.Constant(warmup=399)},
    train={'steps': 400, 'ema': 0.0, 'eval_every': 5, 'patience': 2},
    checkpoint={'every': 5, 'keep_last': 1},
    eval={'compare': False, 'split': 'valid'},
    profile=False,
  )
  return bad, folder, lctx.train(bad, folder)


def bits(folder):
  return {
    r['step']: r['valid/bits_per_token']
    for r in records(folder)
    if 'valid/bits_per_token' in r
  }


def test_patience_ends_a_run_and_the_best_and_latest_are_kept(stopped_early):
  _, folder, result = stopped_early
  found = bits(folder)
  best, last = min(found, key=found.get), max(found)
  assert last == best + 10 < 400
  assert steps_of(folder) == [best, last]
  assert lctx.load(folder).step == best
  assert lctx.load(folder, checkpoint='latest').step == last
  assert f'Step {best:,},' in result.title


def test_an_evaluation_leaves_no_picture_of_another(stopped_early, tmp_path):
  _, folder, _ = stopped_early
  copy = Path(shutil.copytree(folder, tmp_path / 'copy'))
  (copy / 'gain_by_distance.png').write_bytes(b'of another evaluation')
  lctx.evaluate(copy)
  assert (copy / 'loss_by_distance.png').is_file()
  assert not (copy / 'gain_by_distance.png').exists()


def test_losses_that_are_not_finite_are_no_evaluation(
  stopped_early, tmp_path, monkeypatch
):
  _, folder, _ = stopped_early
  copy = Path(shutil.copytree(folder, tmp_path / 'copy'))
  before = (copy / 'eval.json').read_bytes()
  loaded = lctx.load(copy)
  broken = jax.tree.map(lambda x: x * np.nan, loaded.params)
  broken = dataclasses.replace(loaded, params=broken)
  monkeypatch.setattr('lctx.run.load', lambda *_, **__: broken)
  with pytest.raises(RunError, match=f'step {loaded.step} .*not finite'):
    lctx.evaluate(copy)
  assert (copy / 'eval.json').read_bytes() == before


def test_a_run_that_ends_broken_fails_and_leaves_no_checkpoint(
  config, tmp_path
):
  wild = change(
    config,
    optimizer={'peak': 1e38},
    train={'steps': 2, 'ema': 0.0},
    checkpoint={'every': 1},
    profile=False,
  )
  with pytest.raises(RunError, match=r'ends at step 2 .*no checkpoint'):
    lctx.train(wild, tmp_path)
  assert steps_of(tmp_path) == []


@pytest.mark.parametrize('field', ['rows', 'segments'])
def test_an_evaluation_refuses_what_has_no_effect_on_it(stopped_early, field):
  config, folder, _ = stopped_early
  with pytest.raises(lctx.UserError, match=r'config\.data differs'):
    lctx.evaluate(folder, config=change(config, data={field: 16}))
  with pytest.raises(lctx.UserError, match='A lctx Config is needed'):
    lctx.evaluate(folder, config='configs/quickstart.py')


def test_a_config_of_wrong_types_is_refused_by_name(config, tmp_path):
  wrong = change(config, train={'steps': 2.5})
  with pytest.raises(lctx.UserError, match=r'train\.steps = 2\.5'):
    lctx.train(wrong, tmp_path)
  with pytest.raises(lctx.UserError, match='A lctx Config is needed'):
    lctx.train('configs/quickstart.py', tmp_path)


def test_a_run_that_ended_early_does_not_train_on(stopped_early, tmp_path):
  config, folder, result = stopped_early
  again = Path(shutil.copytree(folder, tmp_path / 'again'))
  assert lctx.train(config, again).units == result.units
  assert records(again) == records(folder)
  assert steps_of(again) == steps_of(folder)


def test_a_named_checkpoint_is_evaluated(stopped_early):
  config, folder, _ = stopped_early
  best, last = steps_of(folder)
  one, two = (
    lctx.evaluate(folder, config=config, checkpoint=step).units
    for step in (best, last)
  )
  assert one.bits_per_token < two.bits_per_token
  with pytest.raises(lctx.UserError, match='no checkpoint of step 3'):
    lctx.evaluate(folder, config=config, checkpoint=3)


def test_score_of_documents_sums_to_what_evaluate_says(config, trained, copy):
  """Where memory reaches back to their beginning."""
  far = change(config, eval={'memory': 1300, 'compare': False})
  result = lctx.evaluate(copy, config=far)
  loaded = lctx.load(copy)
  loaded = change(loaded, model=far.eval.model(loaded.model))
  documents = list(config.data.corpus.documents('test'))
  nats = [
    float(loaded.score(b''.join(document.blocks)).sum(dtype=np.float64))
    for document in documents
  ]
  said = result.units.bits_per_byte * result.units.num_bytes * np.log(2)
  assert sum(nats) == pytest.approx(said, rel=1e-5)


def test_a_seed_decides_what_is_generated(trained):
  loaded = lctx.load(trained[0])
  one, two, other = (
    loaded.generate('the memory', 12, seed=seed) for seed in (1, 1, 2)
  )
  assert one == two != other


@pytest.mark.parametrize('end, code', [('read', 0), ('interrupted', 130)])
def test_writing_without_end_ends_quietly(trained, end, code):
  """When whoever reads has had enough, and by Ctrl-C."""
  program = (  # which listens to Ctrl-C also where its parent does not
    'import runpy, signal\n'
    'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
    'runpy.run_module("lctx.generation", run_name="__main__", alter_sys=True)\n'
  )
  prompts = ['--prompt=the ', '--prompt=a ', '--max_new_tokens=0']
  writer = subprocess.Popen(
    [sys.executable, '-c', program, f'--workdir={trained[0]}', *prompts],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': tiny.QUICK},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  try:
    assert writer.stdout.read(200)
    if end == 'read':
      writer.stdout.close()
    else:
      writer.send_signal(signal.SIGINT)
    said = writer.communicate(timeout=60)[1].decode()
    assert (writer.returncode, 'Traceback' in said) == (code, False), said
  finally:
    writer.kill()


def test_what_one_program_read_another_goes_on_from(trained, tmp_path):
  """Read from the command line, asked from there and from Python."""
  text, memory = 'the memory of a long text ends.\n', tmp_path / 'made/memory'
  (tmp_path / 'text').write_text(text)

  def run(*arguments):
    workdir = f'--workdir={trained[0]}'
    return programs.done('lctx.generation', workdir, *arguments)

  read = run(f'--prompt_file={tmp_path / "text"}', f'--save_memory={memory}')
  assert read.returncode == 0, read.stderr
  assert f'wrote {memory}: {len(text) + 1} tokens' in read.stdout
  asked = run(f'--after={memory}', '--prompt=the ', '--max_new_tokens=12')
  loaded = lctx.load(trained[0])
  assert asked.stdout == loaded.generate(text + 'the ', 12) + '\n'
  lost = run(f'--save_memory={memory}', '--max_new_tokens=12')
  assert lost.returncode == 2 and '--max_new_tokens has no' in lost.stderr


def test_eval_reads_a_run_with_another_segment(trained, copy):
  """The command line and Python say the same."""
  done = programs.done(
    'eval.py',
    f'--workdir={copy}',
    '--config.eval.segment=5',
    '--config.eval.memory=11',
    '--config.eval.tokens=500',
    '--checkpoint=latest',
  )
  assert done.returncode == 0, done.stderr
  said = json.loads((copy / 'eval.json').read_text())
  assert 'segment 5, memory 11' in said['title'] and 'segment 5' in done.stdout
  config = lctx.config.read(
    trained[0],
    {'eval.segment': '5', 'eval.memory': '11', 'eval.tokens': '500'},
  )
  here = lctx.evaluate(copy, config=config, checkpoint='latest')
  assert said['units']['bits_per_byte'] == pytest.approx(
    here.units.bits_per_byte, rel=1e-6
  )
