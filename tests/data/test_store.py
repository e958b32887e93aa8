"""A store holds what was read, is made once, and appears whole."""

import logging
import os

import numpy as np
import pytest

from lctx.data import (
  ByBytes,
  ByName,
  Bytes,
  JsonLines,
  SentencePiece,
  Text,
  Words,
  open_store,
)
from lctx.data import store as stores


@pytest.fixture
def corpus(tmp_path):
  folder = tmp_path / 'texts'
  folder.mkdir()
  for number in range(6):
    (folder / f'{number}.txt').write_text(f'größer  {number}\n' * (number + 2))
  return Text(str(folder))


@pytest.fixture
def codec(corpus, tmp_path):
  return Bytes().fit(corpus, tmp_path / 'tokenizer')


@pytest.fixture
def encoded(monkeypatch):
  """The names of the documents that are tokenised while it is watched."""
  names = []
  stream = stores._Counter.__iter__
  monkeypatch.setattr(
    stores._Counter,
    '__iter__',
    lambda self: (names.append(self._document.name), stream(self))[1],
  )
  return names


def test_documents_lie_end_to_end_each_behind_a_start(corpus, codec, tmp_path):
  store = open_store(corpus, codec, 'train', tmp_path / 'store')
  documents = list(corpus.documents('train'))
  assert store.names == [d.name for d in documents]
  for number, document in enumerate(documents):
    text = b''.join(document.blocks)
    start, end = store.offsets[number : number + 2]
    assert bytes(store.tokens[start:end]) == b'\0' + text
    assert store.num_bytes[number] == len(text)
    assert store.num_chars[number] == len(text.decode())
    assert store.num_words[number] == len(text.split())
  assert len(store.tokens) == store.offsets[-1]
  assert store.tokens.dtype == np.uint8
  assert isinstance(store.tokens, np.memmap)


def test_a_larger_vocabulary_takes_two_bytes_a_token(corpus, tmp_path):
  codec = SentencePiece(275, 'bpe').fit(corpus, tmp_path)
  store = open_store(corpus, codec, 'valid', tmp_path)
  (document,) = corpus.documents('valid')
  assert store.tokens.dtype == np.uint16
  assert store.tokens[0] == codec.start
  assert codec.decode(store.tokens) == b''.join(document.blocks)


@pytest.mark.parametrize('block', [1, 5, 64])
def test_small_blocks_make_the_same_store(corpus, tmp_path, monkeypatch, block):
  codec = SentencePiece(275, 'bpe').fit(corpus, tmp_path)
  whole = open_store(corpus, codec, 'train', tmp_path / 'a')
  monkeypatch.setattr('lctx.data.files.BLOCK', block)
  monkeypatch.setattr('lctx.data.piece_codec.BLOCK', block)
  parts = open_store(corpus, codec, 'train', tmp_path / 'b')
  for name in ('tokens', 'offsets', 'num_bytes', 'num_chars', 'num_words'):
    np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_a_second_reader_does_not_tokenise(corpus, codec, tmp_path, encoded):
  first = open_store(corpus, codec, 'train', tmp_path / 'store')
  assert encoded == first.names
  second = open_store(corpus, codec, 'train', tmp_path / 'store')
  assert encoded == first.names
  assert second.hash == first.hash
  np.testing.assert_array_equal(second.tokens, first.tokens)


def test_what_decides_the_tokens_decides_the_store(corpus, codec, tmp_path):
  folder = tmp_path / 'store'
  first = open_store(corpus, codec, 'train', folder)
  path = tmp_path / 'texts' / first.names[0]
  path.write_text(path.read_text().replace('g', 'G'))  # the same size
  changed = open_store(corpus, codec, 'train', folder)
  assert changed.hash != first.hash
  assert b'G' in bytes(changed.tokens)
  pieces = SentencePiece(275, 'bpe').fit(corpus, tmp_path / 'p')
  assert open_store(corpus, pieces, 'train', folder).hash != changed.hash
  by_bytes = Text(corpus.path, ByBytes())
  assert open_store(by_bytes, codec, 'train', folder).hash != changed.hash


def test_a_move_of_the_corpus_keeps_the_store(corpus, codec, tmp_path):
  first = open_store(corpus, codec, 'train', tmp_path / 'store')
  os.rename(corpus.path, tmp_path / 'moved')
  moved = Text(str(tmp_path / 'moved'))
  again = open_store(moved, codec, 'train', tmp_path / 'store')
  assert again.folder == first.folder


def test_a_half_written_store_is_never_seen(
  corpus, codec, tmp_path, monkeypatch, caplog
):
  folder = tmp_path / 'store'

  def stop(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:  # stopped before the rename
    patch.setattr(stores, '_describe', stop)
    patch.setattr(stores.shutil, 'rmtree', lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
      open_store(corpus, codec, 'train', folder)
  (left,) = folder.iterdir()
  assert left.name.startswith('.') and (left / 'tokens.bin').exists()
  store = open_store(corpus, codec, 'train', folder)
  assert store.num_documents == 4
  assert left.name in caplog.text
  with monkeypatch.context() as patch:  # an error leaves nothing behind
    patch.setattr(type(codec), 'stream', stop)
    with pytest.raises(KeyboardInterrupt):
      open_store(corpus, codec, 'valid', folder)
  assert sorted(folder.iterdir()) == sorted([left, store.folder])


def test_a_cut_store_is_made_again(corpus, codec, tmp_path, encoded, caplog):
  store = open_store(corpus, codec, 'train', tmp_path / 'store')
  wanted = bytes(store.tokens)
  os.truncate(store.folder / 'tokens.bin', 10)
  again = open_store(corpus, codec, 'train', tmp_path / 'store')
  assert bytes(again.tokens) == wanted
  assert len(encoded) == 2 * store.num_documents
  assert 'damaged' in caplog.text


def test_the_log_names_the_corpus_and_its_hash(corpus, codec, tmp_path, caplog):
  with caplog.at_level(logging.INFO, 'lctx'):
    open_store(corpus, codec, 'train', tmp_path / 'store')
  assert 'corpus text, train: 4 documents' in caplog.text
  assert corpus.fingerprint()[:16] in caplog.text


def test_what_was_left_out_is_told_once_a_split_and_by_a_second_reader(
  corpus, tmp_path, caplog
):
  for name, text in (('6.txt', b'\xff'), ('7.txt', b'gr\xff'), ('8.txt', b'')):
    (tmp_path / 'texts' / name).write_bytes(text)
  corpus = Text(corpus.path, damaged='skip')
  codec = Words(min_count=2).fit(corpus, tmp_path)
  for split in ('train', 'valid', 'train'):
    caplog.clear()
    with caplog.at_level(logging.INFO, 'lctx'):
      store = open_store(corpus, codec, split, tmp_path / 'store')
    said = [x for x in caplog.records if 'left out' in x.message]
    assert [(x.levelname, x.message) for x in said] == [
      (
        'WARNING',
        f'corpus text, read for its {split} split: left out '
        '2 not UTF-8 (first: 6.txt), 1 empty (first: 8.txt)',
      )
    ]
    assert {'6.txt', '7.txt', '8.txt'}.isdisjoint(store.names)
  assert store.left_out.kinds['not UTF-8'] == [2, '6.txt']


def test_bytes_that_are_no_text_are_no_damage_to_a_tokenizer_of_bytes(
  corpus, codec, tmp_path
):
  (tmp_path / 'texts' / '6.txt').write_bytes(b'gr\xfcn')
  corpus = Text(corpus.path, ByName('never', 'never'), damaged='skip')
  store = open_store(corpus, codec, 'train', tmp_path / 'store')
  assert bytes(store.tokens).endswith(b'\0gr\xfcn')
  assert not store.left_out.kinds
  words = Words().fit(corpus, tmp_path)
  store = open_store(corpus, words, 'train', tmp_path / 'store')
  assert '6.txt' not in store.names and store.num_documents == 6


def test_a_store_made_with_skips_is_another(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text(''.join(f'{{"text": "{n}"}}\n' for n in range(9)))
  hashes = []
  for damaged in ('refuse', 'skip'):
    corpus = JsonLines(str(path), damaged=damaged)
    codec = Bytes().fit(corpus, tmp_path)
    hashes.append(open_store(corpus, codec, 'train', tmp_path).hash)
  assert hashes[0] != hashes[1]


def test_a_corpus_streams_in_bounded_memory(tmp_path):
  import resource

  path = tmp_path / 'long.txt'
  with open(path, 'wb') as file:
    for _ in range(64):
      file.write(b'a line of text that is read and forgotten\n' * 24_000)
  corpus = Text(str(path))
  codec = Bytes().fit(corpus, tmp_path)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  store = open_store(corpus, codec, 'train', tmp_path)
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  assert len(store.tokens) > 50 << 20
  assert grown < 30 << 10  # KiB


def test_an_empty_split_is_refused(corpus, codec, tmp_path):
  with pytest.raises(
    ValueError, match=r'data.corpus .* valid split. Left out: nothing'
  ):
    open_store(Text(corpus.path, ByName()), codec, 'valid', tmp_path)


def test_a_folder_that_cannot_be_written_is_named(corpus, codec, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match=r'data\.folder = .*file/store.* cannot'):
    open_store(corpus, codec, 'train', tmp_path / 'file' / 'store')
