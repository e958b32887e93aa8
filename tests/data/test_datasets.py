"""TensorFlow Datasets are read by name, without TensorFlow."""

import builtins
import sys
from pathlib import Path

import pytest

from lctx.data import Bytes, Tfds, Words, open_store

tfds = pytest.importorskip('tensorflow_datasets')
pytest.importorskip('array_record')


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """The folder that holds both tiny datasets, prepared."""
  sys.path.insert(0, str(Path(__file__).parent))
  import tiny_tfds

  folder = tmp_path_factory.mktemp('tfds')
  for builder in (tiny_tfds.TinyTexts, tiny_tfds.TinyTrainOnly):
    builder(data_dir=folder, file_format='array_record').download_and_prepare()
  yield str(folder)
  sys.path.remove(str(Path(__file__).parent))


def read(corpus, split):
  return [b''.join(d.blocks).decode() for d in corpus.documents(split)]


def test_every_example_is_a_document_and_empty_ones_are_left_out(tiny):
  import tiny_tfds

  corpus = Tfds('tiny_texts', data_dir=tiny, module='tiny_tfds')
  assert sorted(read(corpus, 'train')) == sorted(tiny_tfds.TEXTS['train'])
  assert read(corpus, 'valid') == tiny_tfds.TEXTS['validation']
  wanted = sorted(filter(None, tiny_tfds.TEXTS['test']))
  assert sorted(read(corpus, 'test')) == wanted
  assert 'tensorflow' not in sys.modules


def test_joined_examples_are_the_lines_of_one_document(tiny, tmp_path):
  corpus = Tfds('tiny_texts', data_dir=tiny, joined=True)
  (text,) = read(corpus, 'train')
  assert sorted(text.splitlines(keepends=True)) == sorted(
    read(Tfds('tiny_texts', data_dir=tiny), 'train')
  )
  codec = Words(mark='<S>', both_ends=True).fit(corpus, tmp_path)
  store = open_store(corpus, codec, 'train', tmp_path)
  assert store.num_documents == 1
  assert (store.tokens == codec.start).sum() == 2 * 30


def test_a_train_split_alone_gives_up_its_first_examples(tiny):
  corpus = Tfds('tiny_train_only', data_dir=tiny)
  splits = [read(corpus, split) for split in ('train', 'valid', 'test')]
  assert [len(texts) for texts in splits] == [28, 1, 1]
  assert len({text for texts in splits for text in texts}) == 30


def test_examples_that_are_not_utf8_are_skipped_and_counted(
  tiny, tmp_path, monkeypatch
):
  source, found = [{'text': b'fine'}, {'text': b'\xff'}, {'text': b''}], {}
  monkeypatch.setattr(
    tfds.core.DatasetBuilder, 'as_data_source', lambda *_, **__: Source(source)
  )
  for joined in (False, True):
    corpus = Tfds('tiny_texts', data_dir=tiny, joined=joined, damaged='skip')
    codec = Words().fit(corpus, tmp_path / f'{joined}')
    store = open_store(corpus, codec, 'valid', tmp_path)
    found[joined] = store.left_out.kinds, bytes(codec.decode(store.tokens))
    assert (
      corpus.fingerprint()
      != Tfds('tiny_texts', data_dir=tiny, joined=joined).fingerprint()
    )
    store = open_store(corpus, Bytes().fit(corpus, tmp_path), 'test', tmp_path)
    assert b'\xff' in bytes(store.tokens)
  of_two = {'not UTF-8': [1, 'tiny_texts/1.0.0/validation:1']}
  of_one = {**of_two, 'empty': [1, 'tiny_texts/1.0.0/validation:2']}
  assert found[False] == (of_one, b'\nfine ')
  assert found[True] == (of_two, b'\nfine \n\n')
  source[:1] = []
  corpus = Tfds('tiny_texts', data_dir=tiny, damaged='skip')
  with pytest.raises(ValueError, match=r'empty corpus.* 1 not UTF-8.* 1 empty'):
    list(corpus.documents('train', utf8=True))


class Source(list):
  """What TFDS gives of a split."""

  def __getitems__(self, places):
    return [self[place] for place in places]


def test_a_dataset_ends_up_in_a_store(tiny, tmp_path):
  corpus = Tfds('tiny_texts', field='title', data_dir=tiny)
  store = open_store(corpus, Bytes().fit(corpus, tmp_path), 'valid', tmp_path)
  assert bytes(store.tokens[1:]) == b'validation 0'


@pytest.mark.parametrize(
  ('corpus', 'words'),
  [
    (Tfds(), 'data.corpus.name is empty'),
    (Tfds('tiny_texts', field='body'), 'data.corpus.field.*text, title'),
    (Tfds('no_such_thing'), 'name=no_such_thing is no dataset.*data_dir'),
    (Tfds('lm1bb'), r'name=lm1bb is no dataset.*Did you mean lm1b\?'),
    (Tfds('wiki40/en'), 'Did you mean wiki40b'),
    (Tfds('lm1b'), 'data.corpus.name=lm1b.*tfds build lm1b'),
    (Tfds('pg19', field='book_text'), 'data.corpus.name=pg19.*tfds build'),
    (Tfds('wiki40b/en'), 'data.corpus.name=wiki40b/en.*tfds build'),
  ],
)
def test_what_cannot_be_read_is_named(tiny, corpus, words):
  import dataclasses

  with pytest.raises(ValueError, match=words):
    read(dataclasses.replace(corpus, data_dir=tiny), 'train')


def test_a_missing_extra_says_how_to_install_it(monkeypatch):
  found = builtins.__import__

  def without(name, *args, **kwargs):
    if name in ('array_record', 'tensorflow_datasets'):
      raise ImportError(f'No module named {name}', name=name)
    return found(name, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', without)
  with pytest.raises(ValueError, match=r"pip install 'lctx\[tfds\]'"):
    Tfds('lm1b').fingerprint()
