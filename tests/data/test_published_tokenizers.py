"""Published tokenizers give the ids, and the text, of their own library."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)

from lctx.data import (
  Lanes,
  Published,
  PublishedCodec,
  Stdlib,
  load_codec,
  published_codec,
)
from lctx.data.piece_codec import PieceCodec
from lctx.data.published_pieces import BYTES
from lctx.overrides import override

LINES = [
  'The cat sees the dog, and the dog is not seeing the cat.',
  'A river passes the house; nobody hears it passing by.',
  "Birds don't find stones in trees, but they are finding houses.",
] * 3
HARD = (
  'def f(x):\n\treturn  x\r\n\n  größer ▁a▁ 日本\x00 <0x41> 👩 e\u0301\n\n end'
)
TEXTS = ['', '\n', '  ', 'The cat sees', 'seeing  dogs \n', HARD, LINES[2]]
ROBERTA = ['<s>', '<pad>', '</s>', '<unk>', '<mask>']
BERT = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
T5 = ['<pad>', '</s>', '<unk>']


def byte_level(marks=('<|endoftext|>',)):
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=320,
    special_tokens=list(marks),
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(LINES, trainer)
  return tokenizer


def word_piece():
  tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token='[UNK]'))
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  trainer = trainers.WordPieceTrainer(
    vocab_size=70, special_tokens=BERT, show_progress=False
  )
  tokenizer.train_from_iterator(LINES, trainer)
  return tokenizer


def unigram():
  """As T5, but what has no piece falls to bytes."""
  tokenizer = tokenizers.Tokenizer(models.Unigram())
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  trainer = trainers.UnigramTrainer(
    vocab_size=60, special_tokens=T5, unk_token='<unk>', show_progress=False
  )
  tokenizer.train_from_iterator(LINES, trainer)
  scores = json.loads(tokenizer.to_str())['model']['vocab']
  scores += [[f'<0x{byte:02X}>', -20.0] for byte in range(256)]
  vocabulary = [tuple(score) for score in scores]
  tokenizer.model = models.Unigram(vocabulary, unk_id=2, byte_fallback=True)
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace('▁', ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(' ', 1, 0),
    ]
  )
  sentinels = [f'<extra_id_{i}>' for i in reversed(range(12))]
  tokenizer.add_special_tokens(sentinels)
  return tokenizer


KINDS = {'byte-level': byte_level, 'words': word_piece, 'pieces': unigram}


@pytest.fixture(scope='module', params=KINDS)
def both(request, tmp_path_factory):
  """A codec, and the tokenizer of the library that it was read from."""
  tokenizer = KINDS[request.param]()
  folder = tmp_path_factory.mktemp('published')
  return published_codec(written(folder, tokenizer)), tokenizer


def written(folder: Path, tokenizer, **beside) -> Path:
  """`beside` are the objects of other JSON files, by the name of the file."""
  folder.mkdir(exist_ok=True)
  tokenizer.save(str(folder / 'tokenizer.json'))
  return with_files(folder, **beside)


def with_files(folder: Path, **beside) -> Path:
  for name, content in beside.items():
    (folder / f'{name}.json').write_text(json.dumps(content))
  return folder


def vocabulary_files(folder: Path, tokenizer) -> Path:
  """The older layout, of the vocabulary alone."""
  content = json.loads(tokenizer.to_str())['model']
  if content['type'] == 'WordPiece':
    ordered = sorted(content['vocab'], key=content['vocab'].get)
    (folder / 'vocab.txt').write_text('\n'.join(ordered) + '\n')
    return folder
  merges = ['#version: 0.2', *map(' '.join, content['merges'])]
  (folder / 'merges.txt').write_text('\n'.join(merges) + '\n')
  return with_files(folder, vocab=content['vocab'])


@pytest.mark.parametrize('text', TEXTS)
def test_ids_and_text_are_those_of_the_library(both, text):
  codec, tokenizer = both
  ids = tokenizer.encode(text, add_special_tokens=False).ids
  assert codec.encode(text).tolist() == ids
  assert codec.decode(ids) == tokenizer.decode(ids).encode()


@pytest.mark.parametrize('text', [*TEXTS, '日' * 999, '\x00\x7f\xa0\xad'])
def test_byte_level_gives_any_text_back_piece_by_piece(tmp_path, text):
  codec = published_codec(written(tmp_path, byte_level()))
  ids = codec.encode(text)
  assert codec.decode(ids) == text.encode()
  assert b''.join(codec.decode([id]) for id in ids) == text.encode()
  assert codec.num_bytes[ids].sum() == len(text.encode())


def test_characters_of_bytes_are_those_of_the_library():
  assert set(BYTES) == set(pre_tokenizers.ByteLevel.alphabet())
  assert sorted(BYTES.values()) == list(range(256))


def test_a_piece_has_the_space_before_its_word(tmp_path):
  codec = published_codec(written(tmp_path / 'words', word_piece()))
  spelled = [codec.pieces[id] for id in codec.encode('Seeing')]
  assert spelled[0][:1] == b' ' and len(spelled) > 1
  assert b''.join(spelled) == b' seeing'
  codec = published_codec(written(tmp_path / 'pieces', unigram()))
  assert b''.join(codec.pieces[id] for id in codec.encode('cat é')) == (
    ' cat é'.encode()
  )
  assert codec.decode(codec.encode('cat é')) == 'cat é'.encode()


def test_marks_and_holes_stand_for_no_bytes(both, tmp_path):
  codec, tokenizer = both
  added = tokenizer.get_added_tokens_decoder()
  assert added and codec.num_bytes[list(added)].sum() == 0
  assert codec.decode([codec.start, *codec.encode('the')]) == b'the'
  vocabulary = {character: byte + 9 for character, byte in BYTES.items()}
  sparse = tokenizers.Tokenizer(models.BPE({'<s>': 3, **vocabulary}, []))
  sparse.add_special_tokens(['<s>'])
  sparse.decoder = decoders.ByteLevel()
  codec = published_codec(written(tmp_path / 'sparse', sparse))
  assert (codec.size, codec.start) == (265, 3)
  assert codec.pieces[:9] == [b''] * 9
  assert codec.decode([0, 3, *codec.encode('a')]) == b'a'


def test_added_tokens_that_are_no_marks_are_text(tmp_path):
  """Runs of spaces of GPT-NeoX, for one."""
  tokenizer = byte_level()
  tokenizer.add_tokens(['    ', '日本'])
  codec = published_codec(written(tmp_path, tokenizer))
  assert codec.size == 322
  ids = codec.encode('a    b日本')
  assert {320, 321} < set(ids.tolist())
  assert codec.decode(ids) == 'a    b日本'.encode()


def test_a_mark_spelled_in_a_text_is_that_mark(tmp_path):
  codec = published_codec(written(tmp_path, byte_level()))
  ids = codec.encode('The<|endoftext|>cat')
  assert codec.start in ids
  assert codec.decode(ids) == b'Thecat'


def test_texts_are_neither_cut_nor_padded_nor_put_between_marks(tmp_path):
  tokenizer = word_piece()
  plain = tokenizer.encode(LINES[0], add_special_tokens=False).ids
  tokenizer.enable_truncation(4)
  tokenizer.enable_padding(length=99)
  ends = ('[SEP]', 3), ('[CLS]', 2)
  tokenizer.post_processor = processors.BertProcessing(*ends)
  codec = published_codec(written(tmp_path, tokenizer))
  assert codec.encode(LINES[0]).tolist() == plain


@pytest.mark.parametrize('size', [1, 7, 64])
def test_where_blocks_end_does_not_change_tokens(both, size):
  codec, data = both[0], HARD.encode() * 3
  blocks = [data[i : i + size] for i in range(0, len(data), size)]
  streamed = np.concatenate(list(codec.stream(blocks)))
  np.testing.assert_array_equal(streamed, codec.encode(data))


def test_broken_utf8_is_refused_with_its_place(both):
  with pytest.raises(ValueError, match=r'a\.txt is none at byte 4 \(0xff'):
    list(both[0].stream([b'the', b' \xff'], 'a.txt'))


def test_what_changes_the_text_is_told(tmp_path, caplog):
  published_codec(written(tmp_path / 'a', byte_level()))
  assert not caplog.records
  published_codec(written(tmp_path / 'b', word_piece()))
  assert 'changes the text' in caplog.text


def test_older_files_give_the_same_ids(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'b').mkdir()
  roberta, bert = byte_level(ROBERTA), word_piece()
  codec = published_codec(vocabulary_files(tmp_path / 'a', roberta))
  for text in (*TEXTS, 'the <s> dog<pad>'):
    ids = roberta.encode(text, add_special_tokens=False).ids
    assert codec.encode(text).tolist() == ids
    assert codec.decode(ids) == roberta.decode(ids).encode()
  assert codec.encode('a <mask>')[1:].tolist() == [4]  # it takes the space
  codec = published_codec(vocabulary_files(tmp_path / 'b', bert))
  for text in (*TEXTS, 'the [MASK] dog'):
    ids = bert.encode(text, add_special_tokens=False).ids
    assert codec.encode(text).tolist() == ids
    assert codec.decode(ids) == bert.decode(ids).encode()


def test_word_pieces_keep_their_case_where_the_folder_says_so(tmp_path):
  words = [*BERT, 'The', 'the', 'caf', '##é', '##e']
  (tmp_path / 'vocab.txt').write_text('\r\n'.join(words))
  codec = published_codec(tmp_path)
  assert codec.encode('The Café').tolist() == [6, 7, 9]
  with_files(tmp_path, tokenizer_config={'do_lower_case': False})
  codec = published_codec(tmp_path)
  assert codec.encode('The café').tolist() == [5, 7, 8]
  assert codec.encode('Café').tolist() == [1]


def test_a_sentencepiece_model_is_read_by_its_own_library(tmp_path):
  path = tmp_path / 'spiece.model'
  with open(path, 'wb') as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(LINES),
      model_writer=file,
      vocab_size=45,
      minloglevel=2,
    )
  codec = Published(str(tmp_path)).fit(Stdlib(), tmp_path / 'run')
  assert isinstance(codec, PieceCodec) and codec.size == 45
  again = Published(str(tmp_path)).fit(Stdlib(), tmp_path / 'run')
  assert again.hash == load_codec(tmp_path / 'run').hash == codec.hash
  with_files(tmp_path, tokenizer_config={'tokenizer_class': 'PegasusTokenizer'})
  with pytest.raises(ValueError, match=r'PegasusTokenizer.*T5Tokenizer'):
    published_codec(tmp_path)
  (tmp_path / 'tokenizer_config.json').unlink()
  path.write_bytes(b'nothing')
  with pytest.raises(ValueError, match=r'spiece\.model is not a Sentence'):
    published_codec(tmp_path)


def test_marks_have_their_usual_names_where_nothing_is_said(tmp_path):
  for folder in ('a', 'b', 'c', 'd'):
    (tmp_path / folder).mkdir()
  bert = published_codec(written(tmp_path / 'a', word_piece()))
  assert (bert.pad, bert.cls, bert.sep, bert.mask) == (0, 2, 3, 4)
  assert bert.start == bert.cls and bert.end is None and bert.sentinels == ()
  codec = published_codec(vocabulary_files(tmp_path / 'b', byte_level(ROBERTA)))
  assert (codec.start, codec.pad, codec.end, codec.mask) == (0, 1, 2, 4)
  assert (codec.cls, codec.sep) == (0, 2)
  gpt2 = published_codec(written(tmp_path / 'c', byte_level()))
  assert gpt2.start == gpt2.end == 0 and gpt2.mask is gpt2.pad is None
  t5 = unigram()
  codec = published_codec(written(tmp_path / 'd', t5))
  assert codec.start == codec.end == 1 and codec.pad == 0
  assert list(codec.sentinels) == [
    t5.token_to_id(f'<extra_id_{i}>') for i in range(12)
  ]


def test_marks_are_those_that_the_folder_names(tmp_path):
  tokenizer = byte_level(['<a>', '<b>', '<c>', '<s>'])
  said = {'bos_token': {'content': '<b>', 'lstrip': False}, 'eos_token': None}
  folder = written(
    tmp_path,
    tokenizer,
    tokenizer_config={**said, 'pad_token': '[NEW]'},
    special_tokens_map={'bos_token': '<c>', 'eos_token': '<c>'},
    config={'bos_token_id': 0, 'eos_token_id': 0, 'mask_token_id': [0, 1]},
  )
  codec = published_codec(folder)
  assert (codec.start, codec.end, codec.mask, codec.pad) == (1, 2, 0, 320)
  (folder / 'tokenizer_config.json').unlink()
  (folder / 'special_tokens_map.json').unlink()
  codec = published_codec(folder)
  assert (codec.start, codec.end, codec.pad) == (0, 0, None)


def test_a_number_of_a_token_that_is_no_mark_is_told(tmp_path, caplog):
  config = {'bos_token_id': 77, 'pad_token_id': -1}
  codec = published_codec(written(tmp_path, byte_level(), config=config))
  assert codec.start == 0 and codec.pad is None
  assert 'bos_token_id=77 of config.json is no special token' in caplog.text


def test_tokens_beside_the_vocabulary_are_added(tmp_path):
  (tmp_path / 'files').mkdir()
  folder = vocabulary_files(tmp_path / 'files', byte_level())
  entry = {'content': '<tool>', 'special': True}
  with_files(
    folder,
    added_tokens={'<user>': 320},
    tokenizer_config={
      'added_tokens_decoder': {'321': entry, '0': {'content': '<|endoftext|>'}},
      'extra_special_tokens': ['<end>'],
    },
  )
  codec = published_codec(folder)
  assert codec.encode('<user><tool><end>').tolist() == [320, 321, 322]
  assert codec.pieces[320:] == [b'<user>', b'', b'']
  assert codec.pieces[0] == b''
  with_files(folder, added_tokens={'<user>': 555})
  with pytest.raises(ValueError, match=r"'<tool>' as id 321, but .* leaves"):
    published_codec(folder)


def test_a_saved_codec_is_the_same_without_its_folder(both, tmp_path):
  codec = both[0]
  codec.save(tmp_path)
  again = load_codec(tmp_path)
  assert isinstance(again, PublishedCodec)
  assert (again.hash, str(again)) == (codec.hash, str(codec))
  assert again.pieces == codec.pieces and again.sentinels == codec.sentinels
  np.testing.assert_array_equal(again.encode(HARD), codec.encode(HARD))
  marks = dataclasses.replace(codec._marks, start=codec.size - 1)
  assert PublishedCodec(codec._text, marks).hash != codec.hash


def test_a_run_keeps_its_tokenizer_until_the_folder_changes(
  tmp_path, monkeypatch
):
  lanes = override(
    Lanes(), {'tokenizer': 'published', 'tokenizer.path': str(tmp_path / 'a')}
  )
  assert lanes.tokenizer == Published(str(tmp_path / 'a'))
  folder = written(tmp_path / 'a', byte_level())
  first = lanes.tokenizer.fit(Stdlib(), tmp_path / 'run')
  with monkeypatch.context() as patch:
    patch.setattr(Published, '_make', None)
    again = lanes.tokenizer.fit(Stdlib(), tmp_path / 'run')
  assert again.hash == first.hash == load_codec(tmp_path / 'run').hash
  with_files(folder, tokenizer_config={'pad_token': '!'})
  other = lanes.tokenizer.fit(Stdlib(), tmp_path / 'run')
  assert other.hash != first.hash and other.pad == other.encode('!')[0]


def no_tokenizer(folder):
  with_files(folder, config={})


def half_a_layout(folder):
  with_files(vocabulary_files(folder, byte_level()), config={})
  (folder / 'merges.txt').unlink()


def half_a_file(folder):
  text = byte_level().to_str()
  (folder / 'tokenizer.json').write_text(text[:99])


def no_text(folder):
  (folder / 'tokenizer.json').write_bytes(b'\xff\xfe')


def no_marks(folder):
  written(folder, byte_level(marks=()))


def no_decoder(folder):
  tokenizer = byte_level()
  tokenizer.decoder = decoders.CTC()
  written(folder, tokenizer)


def words_without_unknown(folder):
  (folder / 'vocab.txt').write_text('the\ncat\n')


def merges_of_another(folder):
  vocabulary_files(folder, byte_level())
  (folder / 'merges.txt').write_text('th e\nxx yy\n')


def merges_cut_short(folder):
  vocabulary_files(folder, byte_level())
  (folder / 'merges.txt').write_text('t h\nt\n')


def not_all_bytes(folder):
  (folder / 'merges.txt').write_text('')
  with_files(folder, vocab={'a': 0})


def ends_of_words(folder):
  vocabulary_files(folder, byte_level())
  with_files(folder, vocab={**byte_level().get_vocab(), 'a</w>': 320})


def vocabulary_cut_short(folder):
  vocabulary_files(folder, byte_level())
  (folder / 'vocab.json').write_text('{"a": 0')


def damaged_settings(folder):
  written(folder, byte_level())
  (folder / 'config.json').write_text('{"a"')


def settings_that_are_a_list(folder):
  written(folder, byte_level(), tokenizer_config=[3])


def a_mark_that_is_a_number(folder):
  written(folder, byte_level(), tokenizer_config={'bos_token': 3})


def another_class(folder):
  name = {'tokenizer_class': 'BertJapaneseTokenizer'}
  with_files(vocabulary_files(folder, word_piece()), tokenizer_config=name)


@pytest.mark.parametrize(
  ('spoil', 'words'),
  [
    (no_tokenizer, r'looked for tokenizer\.json.*vocab\.json with merges\.txt'),
    (half_a_layout, r'looked for tokenizer\.json'),
    (half_a_file, r'tokenizer\.json is damaged, or newer'),
    (no_text, r'tokenizer\.json is damaged'),
    (no_marks, r'without a mark.*bos, cls, eos, pad.*"bos_token"'),
    (no_decoder, r'decoder of this tokenizer is CTC'),
    (words_without_unknown, r'vocab\.txt is damaged.*no \[UNK\]'),
    (merges_of_another, r'merges\.txt is damaged'),
    (merges_cut_short, r'merges\.txt is damaged'),
    (not_all_bytes, r'vocab\.json is damaged.*256 bytes'),
    (ends_of_words, r'vocab\.json marks the ends of words'),
    (vocabulary_cut_short, r'vocab\.json is damaged'),
    (damaged_settings, r'config\.json is damaged'),
    (settings_that_are_a_list, r'tokenizer_config\.json is damaged'),
    (a_mark_that_is_a_number, r'3 stands for a token'),
    (another_class, r'BertJapaneseTokenizer.*BertTokenizer'),
  ],
)
def test_a_folder_that_cannot_be_read_says_why(tmp_path, spoil, words):
  (tmp_path / 'checkpoint').mkdir()
  spoil(tmp_path / 'checkpoint')
  path = str(tmp_path / 'checkpoint')
  with pytest.raises(ValueError, match=words):
    published_codec(path)
  with pytest.raises(ValueError, match=rf'^data\.tokenizer\.path={path}: '):
    Published(path).fit(Stdlib(), tmp_path / 'run')


def test_a_text_that_cannot_be_spelled_is_named(tmp_path):
  tokenizer = tokenizers.Tokenizer(models.Unigram([('</s>', 0), ('▁a', -1)]))
  tokenizer.add_special_tokens(['</s>'])
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.decoder = decoders.Metaspace()
  with pytest.raises(ValueError, match='cannot encode the given text'):
    published_codec(written(tmp_path, tokenizer))


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
  folder = written(tmp_path / 'a', byte_level())
  published_codec(folder).save(tmp_path / 'run')
  monkeypatch.setitem(sys.modules, 'tokenizers', None)
  for read in (
    lambda: published_codec(folder),
    lambda: load_codec(tmp_path / 'run'),
  ):
    with pytest.raises(ValueError, match=r"tokenizers.*'lctx\[hf\]'"):
      read()


REAL = os.environ.get('LCTX_TOKENIZERS', '')


@pytest.mark.skipif(not REAL, reason='LCTX_TOKENIZERS names no folder')
def test_the_tokenizer_of_gpt_neox_is_read(tmp_path):
  source = Path(REAL) / '20B_tokenizer.json'
  shutil.copy(source, tmp_path / 'tokenizer.json')
  codec = published_codec(tmp_path)
  assert (codec.size, codec.start) == (50_277, 0)
  text = HARD.replace('e\u0301', '')  # it composes characters
  tokenizer = tokenizers.Tokenizer.from_file(str(source))
  ids = tokenizer.encode(text, add_special_tokens=False).ids
  assert codec.encode(text).tolist() == ids
  assert codec.decode(ids) == text.encode()


@pytest.mark.skipif(not REAL, reason='LCTX_TOKENIZERS names no folder')
def test_the_pieces_of_pg19_are_read(tmp_path):
  source = Path(REAL) / 'pg19train_bpe_8000.model'
  shutil.copy(source, tmp_path / 'spiece.model')
  assert published_codec(tmp_path).size == 8000
