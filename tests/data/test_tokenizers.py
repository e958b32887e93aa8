"""What is encoded is decoded, however the text is cut into blocks."""

import json
import shutil

import numpy as np
import pytest

from lctx.data import (
  ByBytes,
  ByName,
  Bytes,
  Document,
  PublishedBytes,
  SentencePiece,
  Stdlib,
  Text,
  Words,
  documents,
  load_codec,
)

HARD = 'def f(x):\n\treturn  x\r\n\n  größer ▁a▁ 日本\x00<s> <0x41> \n\n end'
WRONG = '{"kind": "bytes", "source": "", "hash": "", "state": {"symbols": 3}}'


@pytest.fixture(scope='module')
def prose(tmp_path_factory):
  """Three documents of simple sentences."""
  folder = tmp_path_factory.mktemp('prose')
  nouns = ['cat', 'dog', 'house', 'tree', 'river', 'stone', 'bird']
  verbs = ['sees', 'likes', 'finds', 'passes', 'hears']
  rng = np.random.default_rng(0)
  for number in range(3):
    text = ''.join(
      f'the {rng.choice(nouns)} {rng.choice(verbs)}  a {rng.choice(nouns)}\n'
      for _ in range(400)
    )
    (folder / f'{number}.txt').write_text(text)
  return Text(str(folder))


@pytest.fixture(scope='module')
def pieces(prose, tmp_path_factory):
  """Trained SentencePiece codecs by kind."""
  folder = tmp_path_factory.mktemp('pieces')
  return {
    model: SentencePiece(285, model).fit(prose, folder / model)
    for model in ('unigram', 'bpe')
  }


def one_file(tmp_path, data: bytes, name='a.txt', **split) -> Text:
  (tmp_path / name).write_bytes(data)
  return Text(str(tmp_path / name), ByBytes(**split))


@pytest.mark.parametrize('model', ['unigram', 'bpe'])
def test_sentencepiece_gives_any_text_back(pieces, model):
  codec = pieces[model]
  assert codec.size == 285
  for text in (HARD, '', '\n', ' ', '▁', 'x' * 200_000):
    assert codec.decode(codec.encode(text)) == text.encode()


def test_bytes_give_any_bytes_back_and_start_has_none(tmp_path):
  codec = Bytes().fit(Stdlib(), tmp_path)
  data = bytes(range(256)) * 2
  assert codec.decode(codec.encode(data)) == data
  assert (codec.size, codec.start, codec.num_bytes[0]) == (256, 0, 0)
  assert codec.encode('né').tolist() == list('né'.encode())


def test_ids_stand_for_as_many_bytes_as_they_decode_to(pieces, prose, tmp_path):
  text = 'the cat sees \n\n a dog \n'
  words = Words().fit(prose, tmp_path)
  for codec in (*pieces.values(), words):
    ids = codec.encode(text)
    assert codec.num_bytes[ids].sum() == len(codec.decode(ids))
  for codec in pieces.values():
    assert codec.num_bytes[codec.start] == 0


@pytest.mark.parametrize('size', [1, 7, 64, 1000])
def test_where_blocks_end_does_not_change_tokens(
  pieces, prose, tmp_path, monkeypatch, size
):
  monkeypatch.setattr(documents, 'LONGEST_LINE', 50)
  long_line = 'the cat sees a dog ' * 20 + 'größer' * 30
  data = (HARD + '\n' + long_line + '\n\nthe tree\n' + 'ä' * 77).encode()
  words = Words(min_count=1000).fit(prose, tmp_path)  # everything is unknown
  bytes_ = Bytes().fit(prose, tmp_path / 'b')
  blocks = [data[i : i + size] for i in range(0, len(data), size)]
  for codec in (*pieces.values(), words, bytes_):
    streamed = np.concatenate(list(codec.stream(blocks)))
    np.testing.assert_array_equal(streamed, codec.encode(data))


def test_published_enwik8_loses_newlines_and_counts_all_splits(tmp_path):
  corpus = one_file(tmp_path, b'ab\nbc\nbd\n', train=7, valid=1, test=1)
  codec = PublishedBytes().fit(corpus, tmp_path / 'a')
  ids = codec.encode(b'ab\nbc\nbd\n')
  assert ids.tolist() == [1, 0, 0, 2, 0, 3]  # 9 bytes, 6 tokens; b is first
  assert codec.size == 4
  kept = PublishedBytes(newlines=True).fit(corpus, tmp_path / 'b')
  assert kept.size == 5
  assert kept.decode(kept.encode(b'ab\nbc\nbd\n')) == b'ab\nbc\nbd\n'
  with pytest.raises(ValueError, match=r'0x7a.*given text at byte 2'):
    codec.encode('abz')


def test_words_are_numbered_as_published(tmp_path):
  text = b' b a \n\n b <unk> \n' + b'.' * 3
  corpus = one_file(tmp_path, text, train=17, valid=1, test=2)
  codec = Words().fit(corpus, tmp_path / 'w')
  names = ['<eos>', 'b', 'a', '<unk>']  # eos first, then counts, then order
  assert codec.encode(' '.join(names)).tolist() == [0, 1, 2, 3]
  assert codec.encode('b a\n\nnew a').tolist() == [1, 2, 0, 0, 3, 2]
  assert codec.decode([1, 2, 0, 1]) == b'b a \nb '
  assert codec.num_bytes.tolist() == [1, 2, 2, 6]


def test_lm1b_sentences_stand_between_two_marks(tmp_path):
  vocabulary = tmp_path / 'vocab.txt'
  vocabulary.write_text('<S> 9\n<UNK> 3\nhello 2\nworld 1\n')
  options = {'mark': '<S>', 'both_ends': True, 'unknown': '<UNK>'}
  tokenizer = Words(path=str(vocabulary), **options)
  codec = tokenizer.fit(Stdlib(), tmp_path)
  stream = [codec.start, *codec.encode('hello world\nbig world\n').tolist()]
  assert stream == [0, 2, 3, 0, 0, 1, 3, 0]
  text_bytes = len('hello world\n')
  assert codec.num_bytes[stream[:4]].sum() == text_bytes


def test_lower_case_and_rare_words(tmp_path):
  corpus = one_file(tmp_path, b'A a B\nc\n', train=6, valid=1, test=1)
  codec = Words(lower=True, min_count=2).fit(corpus, tmp_path / 'w')
  assert codec.encode('A b').tolist() == [1, 2]
  with pytest.raises(ValueError, match=r"'new', met in .* byte 2.*min_count"):
    Words().fit(corpus, tmp_path / 'x').encode('A\nnew')


@pytest.mark.parametrize('tokenizer', [SentencePiece(285), Words()])
def test_broken_utf8_is_refused_with_its_place(tokenizer, tmp_path, prose):
  codec = tokenizer.fit(prose, tmp_path)
  document = Document('book.txt', [b'the cat\nthe', b' dog \xff'])
  with pytest.raises(ValueError, match=r'book.txt .* byte 16 \(0xff.*=bytes'):
    list(codec.stream(document.blocks, document.name))


@pytest.mark.parametrize(
  'tokenizer', [SentencePiece(285, sample=20_000), Words()]
)
def test_a_tokenizer_is_made_of_what_is_left_where_damage_is_skipped(
  tokenizer, tmp_path, prose
):
  texts, split = tmp_path / 'texts', ByName('never', 'never')
  shutil.copytree(prose.path, texts)
  whole = tokenizer.fit(Text(str(texts), split), tmp_path / 'a')
  (texts / '00.txt').write_bytes(b'more\n' * 9000 + b'\xff')
  with pytest.raises(ValueError, match=r'00\.txt.*data.corpus.damaged=skip'):
    tokenizer.fit(Text(str(texts), split), tmp_path / 'b')
  corpus = Text(str(texts), split, damaged='skip')
  assert tokenizer.fit(corpus, tmp_path / 'b').hash == whole.hash


def test_a_tokenizer_is_made_once_and_again_for_another_corpus(
  prose, tmp_path, monkeypatch
):
  first = SentencePiece(285, 'bpe').fit(prose, tmp_path)
  assert load_codec(tmp_path).hash == first.hash
  with monkeypatch.context() as patch:
    patch.setattr(SentencePiece, '_train', None)
    again = SentencePiece(285, 'bpe').fit(prose, tmp_path)
  assert again.hash == first.hash
  np.testing.assert_array_equal(again.encode(HARD), first.encode(HARD))
  other = SentencePiece(286, 'bpe').fit(prose, tmp_path)
  assert other.hash != first.hash
  assert load_codec(tmp_path).size == 286
  kept = tmp_path / f'tokenizer.{first.hash[:16]}.json'
  assert json.loads(kept.read_text())['hash'] == first.hash


def test_a_tokenizer_that_others_rest_on_is_left_in_its_place(prose, tmp_path):
  first = Bytes().fit(prose, tmp_path)
  other = Words().fit(prose, tmp_path, replace=False)
  assert other.hash != first.hash == load_codec(tmp_path).hash
  assert [path.name for path in tmp_path.iterdir()] == ['tokenizer.json']
  assert str(first).startswith(f'bytes, 256 ids, hash {first.hash[:16]}')


def test_training_twice_gives_the_same_pieces(prose, pieces, tmp_path):
  again = SentencePiece(285).fit(prose, tmp_path)
  assert again.hash == pieces['unigram'].hash


def test_a_ready_model_is_read_and_its_changes_are_told(
  prose, tmp_path, caplog
):
  import sentencepiece

  path = tmp_path / 'plain.model'
  with open(path, 'wb') as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['the cat sees a dog'] * 9),
      model_writer=file,
      vocab_size=20,
      model_type='bpe',
      minloglevel=2,
    )
  codec = SentencePiece(path=str(path)).fit(prose, tmp_path)
  assert codec.size == 20
  assert codec.decode(codec.encode('the  cat\nsees')) == b' the cat sees'
  assert 'changes the text' in caplog.text


@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (lambda c, f: SentencePiece(258), 'vocab_size=258 is too small.*259'),
    (lambda c, f: SentencePiece(model='char'), 'data.tokenizer.model'),
    (lambda c, f: SentencePiece(coverage=0.9), 'data.tokenizer.coverage'),
    (lambda c, f: SentencePiece(300, path='no'), 'vocab_size.*no effect'),
    (lambda c, f: SentencePiece(model='bpe', path='no'), 'no effect'),
    (lambda c, f: SentencePiece(262).fit(c, f), 'vocab_size=262 .*too small'),
    (lambda c, f: SentencePiece(9999).fit(c, f), 'vocab_size=9999 .*too large'),
    (lambda c, f: SentencePiece(path='no').fit(c, f), 'data.tokenizer.path=no'),
    (lambda c, f: SentencePiece(path=__file__).fit(c, f), 'is not a Sentence'),
    (lambda c, f: Words(path='no').fit(c, f), 'data.tokenizer.path=no'),
    (lambda c, f: Words(path='no', min_count=2), 'min_count'),
    (lambda c, f: Words(max_size=0), 'data.tokenizer.max_size=0'),
    (lambda c, f: load_codec(f), 'holds no tokenizer'),
  ],
)
def test_a_tokenizer_that_cannot_be_names_the_field(
  prose, tmp_path, make, words
):
  with pytest.raises(ValueError, match=words):
    make(prose, tmp_path)


def test_a_damaged_tokenizer_is_refused(prose, tmp_path):
  Words().fit(prose, tmp_path)
  path = tmp_path / 'tokenizer.json'
  content = path.read_text()
  path.write_text(content.replace('cat', 'cow'))
  with pytest.raises(ValueError, match=r'damaged'):
    load_codec(tmp_path)
  path.write_text(content[:40])
  with pytest.raises(ValueError, match=r'damaged'):
    Words().fit(prose, tmp_path)


def test_sampling_trains_on_every_kth_line(prose, tmp_path):
  whole = SentencePiece(280, 'bpe').fit(prose, tmp_path / 'a')
  part = SentencePiece(280, 'bpe', sample=3000).fit(prose, tmp_path / 'b')
  assert whole.hash != part.hash


@pytest.mark.parametrize(
  'content', ['{}', '3', '{"kind": "bytes"}', 'x', WRONG]
)
def test_a_damaged_tokenizer_names_its_file(tmp_path, content):
  (tmp_path / 'tokenizer.json').write_text(content)
  with pytest.raises(ValueError, match=r'tokenizer\.json is damaged'):
    load_codec(tmp_path)


def test_unknown_words_have_an_id_where_rare_ones_are_left_out(tmp_path):
  """Also where the training text happens to have no rare word."""
  text = tmp_path / 'text'
  text.write_text('a b a b\n' * 9)
  codec = Words(min_count=2).fit(Text(str(text)), tmp_path)
  assert codec.decode(codec.encode('a c')) == b'a <unk> '
