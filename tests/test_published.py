"""A published model is loaded, trained on and written back, by its folder."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import lctx
from lctx.config import load
from lctx.data.objectives import Bart, Causal, MaskedLM, SpanCorruption
from lctx.errors import UserError
from lctx.interop import find, hugging_face
from lctx.models.text import Decoder
from lctx.types import segment_coords

pytestmark = pytest.mark.usefixtures('one_device')
ROOT = Path(__file__).parent.parent
CASES = ROOT / 'tests/golden/hf'
MARKS = '[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'
SENTINELS = [f'<extra_id_{i}>' for i in (3, 2, 1, 0)]


def with_tokenizer(folder):
  """Letters alone, for the 61 ids that the cases have."""
  letters = [chr(x) for x in range(ord('a'), ord('z') + 1)]
  words = [*MARKS, *letters, *(f'##{x}' for x in letters), *SENTINELS]
  model = models.WordPiece(
    {x: i for i, x in enumerate(words)},
    unk_token='[UNK]',
    max_input_chars_per_word=100,
  )
  tokenizer = Tokenizer(model)
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer.decoder = decoders.WordPiece()
  tokenizer.add_special_tokens([*MARKS, *SENTINELS])
  tokenizer.save(str(folder / 'tokenizer.json'))
  named = ('pad', 'unk', 'cls', 'sep', 'mask')
  text = json.dumps({f'{x}_token': y for x, y in zip(named, MARKS)})
  (folder / 'tokenizer_config.json').write_text(text)
  return folder


@pytest.fixture
def folder_of(tmp_path):
  def make(name):
    return with_tokenizer(Path(shutil.copytree(CASES / name, tmp_path / name)))

  return make


@pytest.fixture
def text(tmp_path):
  path = tmp_path / 'text.txt'
  path.write_text('the house on the hill is not for sale any more.\n' * 400)
  return str(path)


def trained(folder, text, workdir, **overrides):
  given = {
    'data.corpus': 'text',
    'data.corpus.path': text,
    'data.rows': 2,
    'data.segment': 24,
    'train.steps': 2,
    'train.valid_tokens': 100,
    'eval.rows': 2,
    'eval.tokens': 100,
    'eval.compare': 'false',
    'checkpoint.every': 1,
    **overrides,
  }
  given = {x: str(y) for x, y in given.items()}
  config = load(f'{ROOT}/configs/published.py:{folder}', given)
  return config, lctx.train(config, workdir)


def test_a_decoder_writes_and_scores_text(folder_of):
  loaded = lctx.load(folder_of('llama'))
  assert loaded.generate('the house', 5) == loaded.generate('the house', 5)
  assert np.isfinite(loaded.score('a house on a hill')).all()


@pytest.mark.parametrize('name', ['llama_model', 'gpt2_texts', 't5_texts'])
def test_what_predicts_no_words_writes_none(name, folder_of):
  loaded = lctx.load(folder_of(name))
  with pytest.raises(ValueError, match='asks for no words'):
    loaded.generate('the house', 5)
  if isinstance(loaded.model, Decoder):
    with pytest.raises(ValueError, match='asks for no words'):
      loaded.score('a house on a hill')


@pytest.mark.parametrize(
  'name, objective',
  [
    ('gpt2', Causal()),
    ('longformer', MaskedLM(mask=4, kept=(0, 2, 3, 4))),
    ('t5', SpanCorruption(0.15, 3.0, 4, 60, start=0, end=1)),
  ],
)
def test_it_goes_on_with_its_own_objective_and_is_written_back(
  name, objective, folder_of, text, tmp_path
):
  folder, workdir, out = folder_of(name), tmp_path / 'run', tmp_path / 'out'
  config, result = trained(folder, text, workdir)
  assert config.data.objective == objective
  assert np.isfinite(result.units.bits_per_token)
  again = lctx.load(workdir, checkpoint='latest')
  architecture = hugging_face.load(folder).architecture
  like = hugging_face.config_in(folder)
  hugging_face.save(out, again.model, again.params, architecture, like=like)
  before, after = (load_file(x / 'model.safetensors') for x in (folder, out))
  assert before.keys() == after.keys()
  moved = [np.abs(before[x] - after[x]).max() for x in before]
  assert 0 < max(moved) < 0.1, 'it began somewhere else'


def test_a_big_bird_says_whether_it_goes_on_by_blocks(
  folder_of, text, tmp_path, caplog
):
  """Short segments see all; blocks that are drawn once need no other model."""
  folder, words = folder_of('big_bird_whole_blocks'), 'too few for its blocks'
  options = {'model.pattern.seed': 0, 'model.pattern.heads': 4}
  options |= {'data.segment': 64}
  config, result = trained(folder, text, tmp_path / 'run', **options)
  assert np.isfinite(result.units.bits_per_token)
  assert words not in caplog.text and not config.model.pattern.counts
  again = lctx.load(tmp_path / 'run', checkpoint='latest')
  kind = hugging_face.load(folder).architecture
  hugging_face.save(tmp_path / 'out', again.model, again.params, kind)
  assert hugging_face.load(tmp_path / 'out').model.pattern.counts
  trained(folder, text, tmp_path / 'short')
  assert words in caplog.text and 'data.segment = 24' in caplog.text


def test_the_export_command_writes_what_is_read_again(folder_of, tmp_path):
  folder, out = folder_of('llama'), tmp_path / 'out'
  command = [sys.executable, '-m', 'lctx.interop', 'export']
  command += [f'--workdir={folder}', f'--to={out}', f'--like={folder}']
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0, done.stderr
  assert f'wrote {out}, step 0 as LlamaForCausalLM' in done.stdout
  one, other = lctx.load(folder), lctx.load(out)
  jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
  assert str(one.codec) == str(other.codec)
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 2 and 'has files already' in done.stderr


def test_an_average_begins_with_the_same_weights(folder_of, text, tmp_path):
  folder, options = folder_of('llama'), {'train.ema': 0.5}
  _, result = trained(folder, text, tmp_path / 'run', **options)
  assert np.isfinite(result.units.bits_per_byte)


def test_weights_that_do_not_fit_are_listed(folder_of, text, tmp_path):
  folder = folder_of('llama')
  with pytest.raises(UserError, match='layers/attention/query has shape'):
    trained(folder, text, tmp_path / 'a', **{'model.stack.num_heads': 2})
  with pytest.raises(UserError, match='memory_gate_bias is missing'):
    trained(
      folder,
      text,
      tmp_path / 'b',
      **{'model.memory': 'infini', 'model.memory.gate': 'headgate'},
    )


def test_a_memory_is_added_to_a_published_model(folder_of, text, tmp_path):
  """What the checkpoint has not is drawn, and the run goes on."""
  options = {
    'model.memory': 'infini',
    'model.memory.gate': 'headgate',
    'init.partial': 'true',
  }
  _, result = trained(folder_of('llama'), text, tmp_path / 'run', **options)
  assert np.isfinite(result.units.bits_per_byte)


def test_a_stretch_of_its_positions_needs_no_new_parameters(
  folder_of, text, tmp_path
):
  options = {
    'model.position.stretch': 'yarn',
    'model.position.stretch.factor': 4,
    'model.position.stretch.trained': 64,
    'data.segment': 128,
  }
  _, result = trained(folder_of('llama'), text, tmp_path / 'run', **options)
  assert np.isfinite(result.units.bits_per_byte)


def test_the_hub_is_asked_for_what_is_no_folder(folder_of, monkeypatch):
  import huggingface_hub

  folder, asked = folder_of('llama'), []

  def download(name, allow_patterns):
    asked.append(name)
    assert not any('bin' in x or 'pt' in x for x in allow_patterns)
    return str(folder)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  assert find.folder_of('someone/llama') == folder
  assert asked == ['someone/llama']

  def refuse(name, allow_patterns):
    raise OSError('offline')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', refuse)
  with pytest.raises(UserError, match='does not give such a model: offline'):
    lctx.load('someone/else')
  with pytest.raises(UserError, match='There is no folder'):
    lctx.load('no-such-folder')


def test_a_folder_without_a_tokenizer_says_what_was_looked_for(tmp_path):
  folder = shutil.copytree(CASES / 'llama', tmp_path / 'llama')
  with pytest.raises(UserError, match=r'tokenizer\.json'):
    lctx.load(folder)


def test_partial_is_of_a_checkpoint():
  with pytest.raises(ValueError, match=r'init\.checkpoint names none'):
    lctx.Beginning(partial=True)


def test_an_encoder_decoder_writes_what_belongs_to_a_text(folder_of):
  """Greedily, as one step after another of teacher forcing would."""
  loaded = lctx.load(folder_of('led'))
  greedy = lctx.Sampling(temperature=0)
  texts = ['the house', 'a hill is not for sale any more']
  rows = np.stack(list(loaded.stream(texts, 6, sampling=greedy)), axis=1)
  model, params = loaded.model, loaded.params
  objective = loaded.config.data.objective
  assert objective == Bart(mask=4, start=2, begin=0, end=2)
  for text, row in zip(texts, rows):
    ids = loaded.codec.encode(text)
    source = np.array([[objective.begin, *ids, objective.end]])
    at = segment_coords(np.zeros_like(source, np.int32))
    carry, _ = model.read(params, source, at)
    own, written = {'params': model.params_of(params, 'decoder')}, []
    for token in row[row >= 0]:
      ids = np.array([[objective.start, *written]], np.int32)
      at = segment_coords(np.zeros_like(ids))
      hidden, _, _ = model.target.apply(own, ids, at, carry)
      logits = model.target.apply(own, hidden, method='logits')[0, -1]
      assert token == logits.argmax()
      written.append(token)
  assert isinstance(loaded.generate(texts[0], 3), str)


def test_an_encoder_predicts_no_next_token(folder_of):
  loaded = lctx.load(folder_of('bert'))
  for ask in (loaded.generate, loaded.score, loaded.read):
    with pytest.raises(ValueError, match='is an encoder, which predicts no'):
      ask('the house')
