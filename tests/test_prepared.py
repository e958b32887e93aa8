"""What is known of a run before anything compiles."""

import dataclasses
import types

import pytest
import tiny

from lctx import Adam, ByName, Checkpoints, Config, UserError, Words
from lctx.data.byte_codec import Bytes, PublishedBytes
from lctx.data.corpora import Text
from lctx.data.lanes import Lanes
from lctx.memory import GatedDelta, Tokens
from lctx.positions import NoPosition
from lctx.prepared import fingerprint, model_flops, prepared


def flops(segment=4, rows=2, **model):
  lanes = Lanes(Text('x'), Bytes(), rows=rows, segment=segment)
  run = types.SimpleNamespace(
    model=tiny.transformer_xl(**model), config=types.SimpleNamespace(data=lanes)
  )
  return model_flops(run)


def by_hand(visible, memory, vocabulary):
  """Two layers of width 16, 2 heads of 8, hidden 20; 4 tokens of 2 rows."""
  projections = 4 * 2 * 16 * 16
  attention = 2 * 2 * 16 * visible
  relative = 2 * 16 * visible + 2 * 16 * 16 * (4 + memory) / (4 * 2)
  ffn = 2 * 2 * 16 * 20
  forward = 2 * (projections + attention + relative + ffn) + vocabulary
  return 3 * forward


def test_utilisation_counts_the_model_that_is_trained():
  assert flops() == by_hand(2.5 + 6, 6, 2 * 16 * 29)
  assert flops(memory_length=0) == by_hand(2.5, 0, 2 * 16 * 29)
  # Each query sees as many keys as there are slots, itself included.
  assert flops(same_length=True) == by_hand(6, 6, 2 * 16 * 29)


def test_utilisation_counts_every_bin_of_an_adaptive_softmax():
  # Bins of 9 and 20 tokens, 16 and 4 wide; one cluster in the head. Each is
  # joined to the width of the model on the way in and on the way out.
  bins = 2 * 16 * 10 + 2 * 2 * 16 * 16 + 2 * 4 * 20 + 2 * 2 * 16 * 4
  assert flops(cutoffs=(9,), div_val=4) == by_hand(2.5 + 6, 6, bins)


@pytest.fixture
def config(tmp_path):
  (tmp_path / 'text.txt').write_text('a short text\n' * 99)
  model = tiny.transformer_xl(1, vocab=None)
  lanes = Lanes(Text(str(tmp_path / 'text.txt')), Bytes(), rows=8, segment=8)
  return Config(model, lanes, Adam())


def test_another_tokenizer_than_checkpoints_rest_on_is_refused_in_words(
  config, tmp_path, caplog
):
  prepared(config, tmp_path)
  (tmp_path / 'checkpoints/100').mkdir(parents=True)
  words = dataclasses.replace(config.data, tokenizer=Words())
  with pytest.raises(UserError) as error:
    prepared(dataclasses.replace(config, data=words), tmp_path)
  for part in ('tokenizer is bytes, 256 ids', 'there and words, 4 ids'):
    assert part in str(error.value)
  assert 'is kept as' not in caplog.text
  assert prepared(config, tmp_path).codec.size == 256


def test_positions_that_no_layer_uses_are_a_warning(config, tmp_path, caplog):
  prepared(config, tmp_path)
  assert 'no effect' not in caplog.text
  model = dataclasses.replace(config.model, memory=GatedDelta())
  run = prepared(dataclasses.replace(config, model=model), tmp_path / 'run')
  said = [x.message for x in caplog.records if 'no effect' in x.message]
  assert len(said) == 1 and 'model.position = RelativeXL' in said[0]
  bare = dataclasses.replace(run.model, position=NoPosition())
  assert bare.axes() == run.model.axes()  # of the same parameters


def test_a_memory_that_nothing_teaches_to_write_is_a_warning(
  config, tmp_path, caplog
):
  model = dataclasses.replace(config.model, memory=Tokens(2))
  config = dataclasses.replace(config, model=model)
  prepared(config, tmp_path)
  (said,) = (x.message for x in caplog.records if 'learns' in x.message)
  assert 'model.memory = Tokens' in said and 'train.gradient_segments=3' in said
  caplog.clear()
  lanes = dataclasses.replace(config.data, segments=2)
  train = dataclasses.replace(config.train, gradient_segments=1)
  prepared(dataclasses.replace(config, data=lanes, train=train), tmp_path)
  assert 'learns' not in caplog.text


def test_a_checkpoint_says_in_words_which_text_it_was_trained_on(
  config, tmp_path
):
  said = fingerprint(prepared(config, tmp_path))['text']
  assert said.startswith('text, 1,158 bytes, hash ')  # nine tenths


def test_tokenised_text_may_lie_in_the_home_folder(
  config, tmp_path, monkeypatch
):
  monkeypatch.setenv('HOME', str(tmp_path))
  lanes = dataclasses.replace(config.data, folder='~/stores')
  run = prepared(dataclasses.replace(config, data=lanes), tmp_path / 'run')
  assert run.train.folder.parent == tmp_path / 'stores'


def test_a_validation_split_without_a_token_to_predict_is_refused(
  config, tmp_path
):
  for split, text in (('train', 'text\n' * 99), ('valid', '\n'), ('test', 'a')):
    (tmp_path / 'named').mkdir(exist_ok=True)
    (tmp_path / 'named' / f'{split}.txt').write_text(text)
  corpus = Text(str(tmp_path / 'named'), ByName())
  for tokenizer, metric in (
    (PublishedBytes(), 'bits_per_token'),
    (Bytes(), 'word_perplexity'),
  ):
    lanes = Lanes(corpus, tokenizer, rows=8, segment=8)
    wrong = dataclasses.replace(
      config, data=lanes, checkpoint=Checkpoints(metric=metric)
    )
    with pytest.raises(UserError, match=f"checkpoint.metric = '{metric}'"):
      prepared(wrong, tmp_path / 'run')


def test_a_read_part_of_validation_without_a_word_is_refused(config, tmp_path):
  (tmp_path / 'spaced').mkdir()
  for split in ('train', 'valid'):
    text = ' ' * 600 + 'some words\n' * 99
    (tmp_path / 'spaced' / f'{split}.txt').write_text(text)
  (tmp_path / 'spaced' / 'test.txt').write_text('a')
  lanes = Lanes(
    Text(str(tmp_path / 'spaced'), ByName()), Bytes(), rows=8, segment=8
  )

  def read(tokens):
    run = dataclasses.replace(
      config,
      data=lanes,
      train=dataclasses.replace(config.train, valid_tokens=tokens),
      checkpoint=Checkpoints(metric='word_perplexity'),
    )
    return prepared(run, tmp_path / 'run')

  with pytest.raises(UserError, match=r'train\.valid_tokens = 50 .* no word'):
    read(50)
  assert read(700)
