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
