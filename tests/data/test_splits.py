"""Splits are disjoint, take everything, and stay where they are."""

import itertools

import numpy as np
import pytest

from lctx.data import ByBytes, ByDocument, ByName, Document

SPLITS = ('train', 'valid', 'test')


def documents(*texts: bytes) -> list[Document]:
  return [Document(f'{n}', [text]) for n, text in enumerate(texts)]


def names(rule, found, split):
  return {d.name for d in rule.documents(found, split)}


def text(rule, found, split) -> bytes:
  return b''.join(b for d in rule.documents(found, split) for b in d.blocks)


@pytest.mark.parametrize('count', [3, 4, 7, 50, 1000])
def test_each_document_is_in_one_split_and_none_is_empty(count):
  found = documents(*[b'x'] * count)
  splits = [names(ByDocument(0.1, 0.2), found, split) for split in SPLITS]
  assert all(splits)
  assert sum(map(len, splits)) == len(set.union(*splits)) == count
  if count == 1000:
    np.testing.assert_allclose([len(s) for s in splits], [700, 100, 200], 0.2)


def test_neither_order_nor_new_documents_move_a_document():
  found = documents(*[b'x'] * 300)
  more = documents(*[b'x'] * 400)[::-1]
  for split in SPLITS:
    before = names(ByDocument(), found, split)
    assert names(ByDocument(), found[::-1], split) == before
    assert before <= names(ByDocument(), more, split)


def test_fewer_than_three_documents_cannot_be_divided_by_document():
  with pytest.raises(ValueError, match=r'2 documents.*split=bybytes'):
    list(ByDocument().documents(documents(b'a', b'b'), 'train'))


def test_bytes_are_cut_where_published_and_the_rest_is_told(caplog):
  data = bytes(range(100))
  rule = ByBytes(train=80, valid=7, test=3, whole_characters=False)
  found = documents(data[:33], data[33:81], data[81:])
  parts = [text(rule, found, split) for split in SPLITS]
  assert parts == [data[:80], data[80:87], data[87:90]]
  assert 'last 10 bytes' in caplog.text


def test_a_shorter_text_is_cut_in_the_same_ratio_and_says_so(caplog):
  data = bytes(range(32, 112)) * 25  # 2000
  parts = [text(ByBytes(), documents(data), split) for split in SPLITS]
  assert [len(part) for part in parts] == [1800, 100, 100]
  assert b''.join(parts) == data
  assert 'same ratio, 1,800/100/100 bytes' in caplog.text


def test_a_cut_does_not_divide_a_character():
  rule = ByBytes(800, 100, 100)
  for pad, character in itertools.product(range(80), 'ä日😀'):
    data = ('a' * pad + character * 40).encode()
    parts = [text(rule, documents(data), split) for split in SPLITS]
    assert b''.join(parts) == data
    for part in parts:
      part.decode()
  exact = ByBytes(80, 10, 10, whole_characters=False)
  assert len(text(exact, documents('ä'.encode() * 5), 'valid')) == 1
  longer = documents('日'.encode() * 9)
  assert text(ByBytes(4, 4, 2), longer, 'test').decode() == '日'


def test_bytes_that_are_no_characters_are_cut_exactly():
  data = b'\x80' * 100
  assert len(text(ByBytes(80, 10, 10), documents(data), 'valid')) == 10


def test_a_text_of_a_few_bytes_cannot_be_divided():
  with pytest.raises(ValueError, match=r'data.corpus.split: .* 9 bytes'):
    text(ByBytes(), documents(b'x' * 9), 'train')


def test_names_divide_what_comes_divided():
  found = [
    Document(f'wiki.{split}.tokens', [b'x']) for split in (*SPLITS, 'extra')
  ]
  got = [names(ByName(), found, split) for split in SPLITS]
  train = {'wiki.train.tokens', 'wiki.extra.tokens'}
  assert got == [train, {'wiki.valid.tokens'}, {'wiki.test.tokens'}]


@pytest.mark.parametrize('shares', [(0, 0.1), (0.5, 0.5), (float('nan'), 0.1)])
def test_shares_leave_something_to_train(shares):
  with pytest.raises(ValueError, match=r'data.corpus.split'):
    ByDocument(*shares)
  with pytest.raises(ValueError, match=r'data.corpus.split'):
    ByBytes(0, 1, 1)
