"""Each objective trains a small model of its family, from text to a loss."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import pytest

import lctx
from lctx import objectives
from lctx.config import load
from lctx.data import open_store
from lctx.data.asked import asked
from lctx.data.borders import sentence_ends, word_begins
from lctx.data.byte_codec import ByteCodec
from lctx.errors import UserError
from lctx.memory import Associative, Tokens
from lctx.prepared import prepared
from lctx.types import EMPTY, PREFIX

pytestmark = pytest.mark.usefixtures('one_device')
ROOT = Path(__file__).parent.parent
CONFIG = ROOT / 'configs/objectives.py'
NAMES = (
  'causal',
  'prefix',
  'middle',
  'masked',
  'words',
  'spans',
  'denoising',
  'gaps',
)
PAIRS = 'spans', 'denoising', 'gaps'
SENTENCE = 'The {} of the house went out. "Is it so?" she said! Nobody came.\n'


@pytest.fixture
def texts(tmp_path):
  """Eight books of many short sentences."""
  folder = tmp_path / 'books'
  folder.mkdir()
  for book in range(8):
    lines = [SENTENCE.format(f'{book}{line}') for line in range(40)]
    (folder / f'{book}.txt').write_text(''.join(lines))
  return str(folder)


def tiny(name, texts, **overrides):
  """The shipped config, of one layer."""
  sides = ['encoder.', 'decoder.'] if name in PAIRS else ['']
  sizes = {f'model.{side}stack.depth': '1' for side in sides}
  sizes |= {f'model.{side}stack.num_heads': '2' for side in sides}
  given = {
    'model.embed.width': '16',
    'data.corpus': 'text',
    'data.corpus.path': texts,
    'data.rows': '4',
    'data.segment': '64',
    'train.steps': '3',
    'train.eval_every': '2',
    'train.valid_tokens': '200',
    'eval.rows': '2',
    'eval.tokens': '200',
    'optimizer.schedule.warmup': '1',
    'checkpoint.every': '2',
  }
  given |= sizes | overrides
  return load(f'{CONFIG}:{name}', {x: str(y) for x, y in given.items()})


@pytest.mark.parametrize('name', [name for name in NAMES if name != 'words'])
def test_it_trains_and_closes_with_the_loss_of_what_it_asks(
  name, texts, tmp_path
):
  config, folder = tiny(name, texts), tmp_path / 'run'
  result = lctx.train(config, folder)
  loaded = lctx.load(folder)
  size = loaded.model.embed.vocab
  assert size == 256 + config.data.objective.extra(256)
  assert 0.5 < result.units.bits_per_token / math.log2(size) < 1.2
  assert result.units.tokens > 50
  assert result.units.bits_per_byte is None or name == 'causal'
  assert (folder / 'curve.png').is_file()


@pytest.fixture
def short(tmp_path):
  """Documents of one letter or one word, and hardly any other."""
  folder = tmp_path / 'short'
  folder.mkdir()
  for number in range(600):
    text = ('x', 'house', 'y', 'No', 'z', 'It was so.')[number % 6]
    (folder / f'{number}.txt').write_text(text if number % 30 else 2 * text)
  return str(folder)


@pytest.mark.parametrize(
  'name, tokenizer',
  [
    ('masked', 'bytes'),
    ('spans', 'words'),
    pytest.param('causal', 'words', marks=pytest.mark.grid),
    pytest.param('denoising', 'bytes', marks=pytest.mark.grid),
    pytest.param('gaps', 'words', marks=pytest.mark.grid),
  ],
)
def test_documents_of_one_word_or_letter_train_and_evaluate(
  name, tokenizer, short, tmp_path
):
  """Rows of them may hold nothing to predict."""
  options = {'data.tokenizer': tokenizer, 'data.segment': 16, 'data.rows': 2}
  options |= {'train.steps': 6, 'eval.tokens': 'none'}
  if tokenizer == 'words':
    options['data.tokenizer.min_count'] = '2'
  config = tiny(name, short, **options)
  folder = tmp_path / 'run'
  result = lctx.train(config, folder)
  assert math.isfinite(result.units.bits_per_token) and result.units.tokens
  records = (folder / 'metrics.jsonl').read_text()
  assert 'NaN' not in records and '"skipped": 0' in records


@pytest.mark.parametrize('name', ['masked', 'spans'])
def test_a_row_without_anything_to_predict_has_no_weight_loss_or_gradient(
  name, short
):
  lanes, _, codec, batch = batch_of(name, short, **{'data.segment': 16})
  empty = asked(
    lanes.objective, codec, {0: [(0, np.array([7]))], 1: []}, 0, lanes.length
  )
  assert not empty.weight.any() and (empty.document == EMPTY).all()
  assert jax.tree.map(np.shape, empty) == jax.tree.map(
    lambda x: (2, *x.shape[1:]), batch
  )
  config = tiny(name, short, **{'data.segment': 16})
  model = config.model.with_vocabulary(lanes.vocabulary(codec))
  params = model.init_params(jax.random.key(0))

  def loss(params, batch):
    if name in PAIRS:
      nll, _ = model.nll(params, batch)
    else:
      own, carry = {'params': params}, model.initial(len(batch.tokens))
      hidden, _, _ = model.apply(own, batch.tokens, batch.coords, carry)
      nll = model.apply(own, hidden, batch.targets, method='nll')
    return (nll * batch.weight).sum()

  both = jax.tree.map(lambda x, y: np.concatenate([x, y]), batch, empty)
  find = jax.jit(jax.value_and_grad(loss))
  nats, gradient = find(params, empty)
  assert nats == 0
  assert all((x == 0).all() for x in jax.tree.leaves(gradient))
  wanted, got = find(params, batch), find(params, both)
  assert float(wanted[0]) > 0
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got, wanted
  )


@pytest.mark.parametrize('name', ['masked', 'spans'])
def test_a_split_of_which_nothing_is_asked_is_refused(name, short, tmp_path):
  """Of pairs: every document is one word. Of masks: all of it is kept."""
  for path in Path(short).iterdir():
    path.write_text('house' if name == 'spans' else '\0')
  options = {'data.segment': 16, 'data.tokenizer': 'words'}
  if name == 'masked':
    options['data.tokenizer'] = 'bytes'
  with pytest.raises(UserError, match='asks nothing of the train split'):
    lctx.train(tiny(name, short, **options), tmp_path / 'run')


def test_training_says_how_much_of_the_text_finds_no_room(
  texts, tmp_path, caplog
):
  with caplog.at_level('INFO', 'lctx'):
    prepared(tiny('denoising', texts), tmp_path)
  said = [x.message for x in caplog.records if 'find no room' in x.message]
  assert len(said) == 1
  assert said[0].startswith('data.objective = bart: of the first 32 rows, ')
  caplog.clear()
  with caplog.at_level('INFO', 'lctx'):
    prepared(tiny('causal', texts), tmp_path / 'causal')
  assert 'find no room' not in caplog.text


def batch_of(name, texts, step=0, **overrides):
  config = tiny(name, texts, **overrides)
  lanes, folder = config.data, Path(texts).parent
  codec = lanes.tokenizer.fit(lanes.corpus, folder)
  store = open_store(lanes.corpus, codec, 'train', folder)
  return lanes, store, codec, lanes.batch(store, codec, step)


@pytest.mark.parametrize('name', [name for name in NAMES if name != 'causal'])
def test_a_batch_is_a_pure_function_of_its_number(name, texts):
  lanes, store, codec, batch = batch_of(name, texts)
  again = lanes.batch(store, codec, 0)
  jax.tree.map(np.testing.assert_array_equal, again, batch)
  part = lanes.batch(store, codec, 0, slice(2, 5))
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(x, y[2:5]), part, batch
  )
  other = lanes.batch(store, codec, 1)
  assert any(
    (x != y).any()
    for x, y in zip(jax.tree.leaves(other), jax.tree.leaves(batch))
  )
  assert batch.tokens.shape == batch.targets.shape == batch.document.shape


def test_what_is_hidden_is_what_counts_and_what_stood_there(texts):
  _, store, _, batch = batch_of('masked', texts)
  changed = batch.tokens != batch.targets
  assert (batch.weight[changed] == 1).all()
  share = batch.weight.mean()
  assert 0.1 < share < 0.2
  assert (batch.tokens[changed] == 256).mean() > 0.8
  lane = len(store.tokens) // 4
  np.testing.assert_array_equal(batch.targets[3], store.tokens[3 * lane :][:64])


def test_documents_of_a_row_are_texts_of_their_own(texts):
  """A row that holds the end of one book and the beginning of the next."""
  lanes, store, codec, _ = batch_of('spans', texts)
  crossing = None
  for step in range(60):
    batch = lanes.batch(store, codec, step)
    rows = np.flatnonzero(
      batch.source_document.max(axis=1) > batch.source_document[:, 0]
    )
    if len(rows):
      crossing = rows[0]
      break
  assert crossing is not None
  of_source = batch.source_document[crossing]
  of_target = batch.document[crossing]
  first, second = of_source[0], of_source[0] + 1
  held = {*of_source} - {EMPTY}
  assert {first, second} <= held and {*of_target} - {EMPTY} == held
  begins = batch.tokens[crossing][of_target == second][0]
  assert begins == lanes.objective.with_ids(256).start
  assert 0 not in batch.source[crossing][of_source >= 0]  # no start of a store
  padded = of_target == EMPTY
  assert (batch.weight[crossing][padded] == 0).all()


def test_documents_count_up_along_a_lane_as_memory_goes_by_them(texts):
  """As they do where every token predicts the next."""
  lanes, store, codec, _ = batch_of('masked', texts)
  plain = dataclasses.replace(lanes, objective=objectives.Causal())
  for step in (0, 1, 7, 60):  # the last after a lane has begun again
    got = lanes.batch(store, codec, step).document
    want = plain.batch(store, codec, step).document
    same = got == want
    assert same.mean() > 0.95, step  # a text of one token is left out
    assert {*got.ravel()} - {EMPTY} <= {*want.ravel()}


def test_a_row_may_be_of_one_text_alone(texts):
  lanes, store, codec, _ = batch_of('spans', texts, **{'data.alone': 'true'})
  for step in range(40):
    batch = lanes.batch(store, codec, step)
    for row in batch.source_document:
      assert len({*row} - {EMPTY}) == 1


def test_a_prefix_is_seen_both_ways_and_not_predicted(texts):
  _, _, _, batch = batch_of('prefix', texts)
  held = batch.document >= 0
  prefix = batch.role == PREFIX
  assert prefix[:, 0].all() and not prefix[~held].any()
  inside = prefix[:, :-1] & prefix[:, 1:]
  assert not batch.weight[:, :-1][inside].any()


def test_words_begin_and_sentences_end_where_they_do():
  codec = ByteCodec(range(256))
  text = b'One day. "Why?" he said! No.5 is it\nNew line'
  ids = np.frombuffer(text, np.uint8)
  words = np.split(ids, np.flatnonzero(word_begins(codec, ids))[1:])
  assert b''.join(bytes(word) for word in words) == text
  assert [
    bytes(word).strip() for word in words if bytes(word).strip()
  ] == text.split()
  ends = np.flatnonzero(sentence_ends(codec, ids)) + 1
  found = [bytes(x) for x in np.split(ids, ends[:-1])]
  assert found == [
    b'One day. ',
    b'"Why?" ',
    b'he said! ',
    b'No.5 is it\n',
    b'New line',
  ]


@pytest.mark.parametrize(
  'name, memory', [('masked', Tokens(2)), ('spans', Associative(2, 4, 2))]
)
def test_an_encoder_reads_by_segments_with_a_memory(
  name, memory, texts, tmp_path
):
  config = tiny(name, texts)
  lanes = dataclasses.replace(config.data, segment=16, segments=4)
  model = config.model
  if name == 'masked':
    model = model.clone(memory=memory, position=lctx.positions.Learned(4096))
  else:
    encoder = dataclasses.replace(model.encoder, memory=memory)
    model = dataclasses.replace(model, encoder=encoder)
  train = dataclasses.replace(config.train, gradient_segments=3)
  config = dataclasses.replace(config, model=model, train=train, data=lanes)
  result = lctx.train(config, tmp_path / 'run')
  assert math.isfinite(result.units.bits_per_token)


def test_a_run_of_pairs_goes_on_as_if_it_had_not_stopped(texts, tmp_path):
  config = tiny('spans', texts, **{'train.steps': 4})
  adam = dataclasses.replace(config.optimizer, schedule=lctx.Constant())
  config = dataclasses.replace(config, optimizer=adam)
  whole = lctx.train(config, tmp_path / 'whole')
  stopped = dataclasses.replace(config.train, steps=2)
  lctx.train(dataclasses.replace(config, train=stopped), tmp_path / 'parts')
  (tmp_path / 'parts' / 'eval.json').unlink()
  parts = lctx.train(config, tmp_path / 'parts')
  assert whole.units == parts.units


@pytest.mark.parametrize(
  'name, options, words',
  [
    ('masked', {'data.objective': 'causal'}, 'predicts what comes next'),
    ('masked', {'data.objective': 'spancorruption'}, 'gives pairs of texts'),
    ('masked', {'data.objective': 'prefixlm'}, 'does not look at it'),
    ('causal', {'data.objective': 'maskedlm'}, 'sees none after them'),
    ('prefix', {'data.objective': 'causal'}, 'must not'),
    ('causal', {'data.objective': 'prefixlm'}, 'does not look at it'),
    ('causal', {'data.alone': 'true'}, 'which data.objective = causal reads'),
    ('masked', {'eval.compare': 'true'}, 'eval.compare = True: of reading'),
    ('spans', {'data.segments': 2}, 'carries nothing from one segment'),
    ('spans', {'data.segment': 2048}, 'needs .* sentinels'),
    ('prefix', {'model.pattern': 'everything'}, 'must not'),
    ('spans', {'data.objective': 'causal'}, 'gives single texts'),
    (
      'masked',
      {'checkpoint.metric': 'bits_per_byte'},
      'of every token of a text',
    ),
    (
      'denoising',
      {'data.segment': 1024},
      r'model\.encoder\.position ends after',
    ),
    ('masked', {'model.task': 'spans'}, 'asks for no words'),
    ('masked', {'model.task': 'task'}, r'task is no part .* Did you mean'),
  ],
)
def test_what_does_not_fit_together_is_told(
  name, options, words, texts, tmp_path
):
  with pytest.raises(UserError, match=words):
    lctx.train(tiny(name, texts, **options), tmp_path / 'run')
