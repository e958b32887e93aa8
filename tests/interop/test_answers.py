"""What is said of a text is what its model gives for it, however it is cut."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import lctx
from lctx.data.long_texts import Carry, Stride, Truncate
from lctx.interop import hugging_face
from lctx.layers.norm import RMSNorm
from lctx.memory import Tokens
from lctx.positions import Learned

CASES = Path(__file__).parent.parent / 'golden/hf'
BERT = '[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'
ROBERTA = '<s>', '<pad>', '</s>', '<unk>', '<mask>'
LETTERS = [chr(x) for x in range(ord('a'), ord('z') + 1)]
TEXT = 'thewhaleswamundertheship'
LONG = 'andthecaptainsawitgodownintothedeepwherenomanhadeverbeen' * 2


def is_bert(name):
  return name.startswith(('bert', 'big_bird'))


def folder_of(name, home):
  """The case with a tokenizer of letters, in the marks of its family."""
  marks = BERT if is_bert(name) else ROBERTA
  ids = {x: i for i, x in enumerate([*marks, *LETTERS])}
  unknown = marks[1 if marks is BERT else 3]
  tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
  tokenizer.pre_tokenizer = pre_tokenizers.Split('', 'isolated')
  tokenizer.decoder = decoders.WordPiece()
  tokenizer.add_special_tokens([*marks])
  if marks is BERT:
    around = processors.BertProcessing(('[SEP]', 3), ('[CLS]', 2))
  else:
    around = processors.RobertaProcessing(('</s>', 2), ('<s>', 0))
  tokenizer.post_processor = around
  folder = Path(shutil.copytree(CASES / name, home / name))
  tokenizer.save(str(folder / 'tokenizer.json'))
  return folder


@pytest.fixture(scope='module')
def loaded_of(tmp_path_factory):
  home, found = tmp_path_factory.mktemp('published'), {}

  def load(name):
    if name not in found:
      found[name] = lctx.load(folder_of(name, home))
    return found[name]

  return load


def alone(loaded, ids, types=None):
  """Outputs of one row of ids, as its own library is given them."""
  given = {'input_ids': np.array([ids], np.int32)}
  given['attention_mask'] = np.ones_like(given['input_ids'])
  if types is not None:
    given['token_type_ids'] = np.array([types], np.int32)
  said = hugging_face.outputs(loaded.published, given)
  return {name: np.asarray(x)[0] for name, x in said.items()}


def spelled(loaded, text):
  return loaded.codec.encode(text).tolist()


@pytest.mark.parametrize(
  'name',
  [
    'bert_model',
    'big_bird_whole_blocks',
    'bart_texts',
    'roberta',
  ],
)
def test_texts_of_all_lengths_are_read_as_alone(name, loaded_of, close):
  loaded, texts = loaded_of(name), [TEXT, 'a', LONG[:40]]
  opens, ends = (2, 3) if is_bert(name) else (0, 2)
  for text, said in zip(texts, loaded.answers(texts)):
    ids = spelled(loaded, text)
    want = alone(loaded, [opens, *ids, ends])
    assert said.ids.tolist() == ids and want.keys() == said.outputs.keys()
    for field, got in said.outputs.items():
      whole = field in hugging_face.of_texts(loaded.model)
      close(got, want[field] if whole else want[field][1:-1])


def test_two_texts_are_told_apart_as_their_library_does(loaded_of, close):
  loaded = loaded_of('bert_span')
  (said,) = loaded.answers([('where', TEXT)])
  ids = [2, *spelled(loaded, 'where'), 3, *spelled(loaded, TEXT), 3]
  want = alone(loaded, ids, [0] * 7 + [1] * (len(TEXT) + 1))
  close(said.outputs['end_logits'], want['end_logits'][7:-1])
  loaded = loaded_of('longformer_span')  # the question is global
  (said,) = loaded.answers([('where', TEXT)])
  ids = [0, *spelled(loaded, 'where'), 2, 2, *spelled(loaded, TEXT), 2]
  want = alone(loaded, ids)
  close(said.outputs['start_logits'], want['start_logits'][8:-1])


def test_a_long_text_is_refused_or_shortened(loaded_of, close):
  loaded = loaded_of('bert_texts')
  with pytest.raises(ValueError, match='one has 112 tokens where 62 have'):
    loaded.answers([TEXT, LONG])
  short = loaded.with_long_texts(Truncate(cut='head'))
  _, said = short.answers([TEXT, LONG])
  (want,) = loaded.answers([LONG[-62:]])
  close(said.outputs['logits'], want.outputs['logits'])
  assert said.place.tolist() == list(range(112 - 62, 112))


def test_windows_say_of_each_token_once_and_of_the_text_their_mean(
  loaded_of, close
):
  loaded = loaded_of('bert_tokens')
  strides = loaded.with_long_texts(Stride(overlap=0.5))
  (said,) = strides.answers([LONG])
  assert said.ids.tolist() == spelled(loaded, LONG)
  assert said.outputs['logits'].shape == (112, 5)
  one, two, last = loaded.answers([LONG[:62], LONG[31:93], LONG[-62:]])
  close(said.outputs['logits'][:46], one.outputs['logits'][:46])
  close(said.outputs['logits'][50:70], two.outputs['logits'][19:39])
  close(said.outputs['logits'][-20:], last.outputs['logits'][-20:])
  loaded = loaded_of('bert_texts')
  (said,) = loaded.with_long_texts(Stride(overlap=0.5)).answers([LONG])
  each = loaded.answers([LONG[:62], LONG[31:93], LONG[-62:]])
  want = np.mean([x.outputs['logits'] for x in each], axis=0)
  close(said.outputs['logits'], want)


def test_a_question_stands_before_each_window_of_its_text(loaded_of, close):
  loaded = loaded_of('bert_span')
  strides = loaded.with_long_texts(Stride(overlap=0.0))
  (said,) = strides.answers([('where', LONG)])  # 56 have room
  halves = loaded.answers([('where', LONG[:56]), ('where', LONG[56:])])
  want = np.concatenate([x.outputs['start_logits'] for x in halves])
  close(said.outputs['start_logits'], want)


def test_an_encoder_with_memory_reads_on_and_its_last_segment_answers(
  loaded_of, close
):
  """Each segment a text in its marks (Bulatov et al. 2024)."""
  loaded = loaded_of('bert_texts')
  model = loaded.model.clone(
    memory=Tokens(2, RMSNorm()), position=Learned(64, restarts=True)
  )
  tokens = np.random.default_rng(0).standard_normal((2, 24), np.float32)
  around = {'tokens': tokens, 'norm_scale': np.full(24, 4, np.float32)}
  params = loaded.params | {'around': around}
  reads = dataclasses.replace(loaded, model=model, params=params)
  lanes = dataclasses.replace(reads.config.data, segment=32)
  config = dataclasses.replace(reads.config, model=model, data=lanes)
  reads = dataclasses.replace(reads, config=config).with_long_texts(Carry())
  (said,) = reads.answers([LONG[:50]])
  carry, ids = model.initial(1), spelled(loaded, LONG[:50])
  for first in range(0, len(ids), 30):
    row = np.array([[2, *ids[first : first + 30], 3]], np.int32)
    read = hugging_face.placed(loaded.published, {'input_ids': row})
    want, carry = hugging_face.said(model, params, read, carry)
  close(said.outputs['logits'], want['logits'][0])
  (other,) = reads.answers([TEXT[:20] + LONG[20:50]])
  far = np.abs(other.outputs['logits'] - said.outputs['logits']).max()
  assert far > 1e-2, 'the first segment is forgotten'


def test_memory_that_ends_is_full_before_its_positions_do(loaded_of):
  """Marks and a question stand in every segment, and count there."""
  loaded = loaded_of('bert_texts')
  model = loaded.model.clone(memory=Tokens(2, RMSNorm()))
  tokens = np.ones((2, 24), np.float32)
  around = {'tokens': tokens, 'norm_scale': np.ones(24, np.float32)}
  reads = dataclasses.replace(
    loaded, model=model, params=loaded.params | {'around': around}
  )
  lanes = dataclasses.replace(reads.config.data, segment=16)
  config = dataclasses.replace(reads.config, data=lanes)
  reads = dataclasses.replace(reads, config=config)
  (said,) = reads.answers([LONG[:56]])  # four segments of 14 and 2 marks
  assert np.isfinite(said.outputs['logits']).all()
  with pytest.raises(ValueError, match='one has 57 tokens where 56 have'):
    reads.answers([LONG[:57]])
  with pytest.raises(ValueError, match='memory of the model reads on'):
    reads.with_long_texts(Stride(length=20)).answers([LONG[:50]])


def test_a_question_that_fills_a_row_is_named(loaded_of):
  loaded = loaded_of('bert_span').with_long_texts(Truncate())
  with pytest.raises(ValueError, match='one has 3 tokens where 0 have'):
    loaded.answers([('a' * 61, 'abc'), LONG])


def test_what_has_nothing_to_say_is_refused(loaded_of):
  loaded = loaded_of('bert_texts')
  with pytest.raises(ValueError, match="The text '' has no token"):
    loaded.answers(['a', ''])
  trained = dataclasses.replace(loaded, published=None)
  with pytest.raises(ValueError, match='interop export'):
    trained.answers(['a'])
