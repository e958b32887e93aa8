"""Text is found, unpacked and read; what cannot be read is named."""

import bz2
import gzip
import lzma
import os
import sysconfig
import zipfile

import pytest

from lctx.data import (
  ByBytes,
  ByDocument,
  ByName,
  JsonLines,
  Stdlib,
  Text,
  Tfds,
  files,
)
from lctx.data.left_out import LeftOut

SPLITS = ('train', 'valid', 'test')
BY_NAME = ByName(valid='never', test='never')


def read(corpus, split='train'):
  return {d.name: b''.join(d.blocks) for d in corpus.documents(split)}


def zstd(data: bytes) -> bytes:
  zstandard = pytest.importorskip('zstandard')
  half = len(data) // 2
  pack = zstandard.ZstdCompressor().compress
  return pack(data[:half]) + pack(data[half:])  # two frames


PACK = {'gz': gzip.compress, 'bz2': bz2.compress, 'xz': lzma.compress}
PACK['zst'] = zstd


@pytest.mark.parametrize('kind', PACK)
def test_packed_text_is_the_text(tmp_path, kind):
  data = bytes(range(256)) * 9000  # more than a block
  path = tmp_path / f'a.txt.{kind}'
  path.write_bytes(PACK[kind](data))
  assert read(Text(str(path), BY_NAME)) == {path.name: data}


def test_the_members_of_an_archive_are_documents(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    archive.writestr('enwik8', 'no suffix')
    archive.writestr('books/one.txt', 'one')
    archive.writestr('picture.png', 'x')
  assert read(Text(str(tmp_path / 'a.zip'), BY_NAME)) == {
    'a.zip/books/one.txt': b'one',
    'a.zip/enwik8': b'no suffix',
  }


def test_a_folder_and_a_pattern_find_text_in_order_of_names(tmp_path):
  for name in (
    'b.md',
    'a/z.txt',
    'a/y.py',
    'a/p.png',
    '.hidden/h.txt',
    'e.txt',
  ):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(name)
  (tmp_path / 'e.txt').write_text('')
  names = list(read(Text(str(tmp_path), BY_NAME)))
  assert names == ['a/y.py', 'a/z.txt', 'b.md']
  names = list(read(Text(f'{tmp_path}/**/*.txt', BY_NAME)))
  assert names == ['a/z.txt']


def test_variables_in_a_path_are_replaced(tmp_path, monkeypatch):
  (tmp_path / 'text8').write_text('anarchism')
  monkeypatch.setenv('LCTX_TEST_DATA', str(tmp_path))
  corpus = Text('$LCTX_TEST_DATA/text8', BY_NAME)
  assert read(corpus) == {'text8': b'anarchism'}


def test_a_fingerprint_follows_contents_and_not_the_place(tmp_path):
  for folder in ('one', 'two'):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'a.txt').write_text('text')
  one, two = (Text(str(tmp_path / folder)) for folder in ('one', 'two'))
  assert one.fingerprint() == two.fingerprint()
  (tmp_path / 'two' / 'a.txt').write_text('tex!')
  assert one.fingerprint() != two.fingerprint()
  assert one.fingerprint() != Text(one.path, ByBytes()).fingerprint()


def test_a_copy_of_a_large_text_is_the_same_text(tmp_path):
  """Whatever its size (this one would take no room on disk) and its time."""
  prints = []
  for name, changed in (('one', 1), ('two', 2)):
    (tmp_path / name).mkdir()
    path = tmp_path / name / 'a.txt'
    with open(path, 'wb') as file:
      file.truncate(100 << 20)
    os.utime(path, (changed, changed))
    prints.append(Text(str(path)).fingerprint())
  assert prints[0] == prints[1]
  with open(path, 'r+b') as file:
    file.write(b'x')
  os.utime(path, (3, 3))
  assert Text(str(path)).fingerprint() != prints[1]


def test_a_large_file_is_hashed_again_only_when_it_changes(
  tmp_path, monkeypatch, caplog
):
  monkeypatch.setattr(files, '_LARGE', 5)
  path, memory = tmp_path / 'a.txt', tmp_path / 'data'
  path.write_text('a long text')
  corpus = Text(str(path))
  wanted = corpus.fingerprint()
  assert corpus.fingerprint(memory) == wanted
  with monkeypatch.context() as patch:
    patch.setattr(files, '_read_hash', None)
    assert corpus.fingerprint(memory) == wanted
  path.write_text('another text')
  changed = corpus.fingerprint(memory)
  assert changed == corpus.fingerprint() != wanted
  (memory / 'hashes.json').write_text('{"')
  assert corpus.fingerprint(memory) == changed
  assert 'hashes.json cannot be read' in caplog.text


def test_hashes_that_cannot_be_remembered_are_made_each_time(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(files, '_LARGE', 5)
  (tmp_path / 'a.txt').write_text('a long text')
  corpus = Text(str(tmp_path / 'a.txt'))
  assert corpus.fingerprint(tmp_path / 'a.txt') == corpus.fingerprint()


def test_the_standard_library_is_every_module_once_without_tests():
  splits = [list(read(Stdlib(), split)) for split in SPLITS]
  assert all(names == sorted(names) for names in splits)
  found = sorted(name for names in splits for name in names)
  root = sysconfig.get_paths()['stdlib']
  wanted = []
  for where, folders, names in os.walk(root):
    folders[:] = [
      f
      for f in folders
      if f not in ('site-packages', 'dist-packages', '__pycache__')
      and f not in ('test', 'tests', 'idle_test')
    ]
    paths = [os.path.join(where, n) for n in names if n.endswith('.py')]
    wanted += [os.path.relpath(p, root) for p in paths if os.path.getsize(p)]
  assert found == sorted(wanted)
  assert 'json/decoder.py' in found
  assert Stdlib().fingerprint() == Stdlib().fingerprint()
  assert Stdlib().fingerprint() != Stdlib(ByDocument(0.1, 0.1)).fingerprint()


def test_json_lines_are_documents_wherever_blocks_end(tmp_path, monkeypatch):
  lines = b'{"text": "gr\\u00f6\\u00dfer\\n", "n": 1}\n\n{"text": ""}\n'
  lines += b'{"n": {"text": 3}, "text": "' + b'long ' * 50 + b'"}'
  (tmp_path / 'a.jsonl.gz').write_bytes(gzip.compress(lines))
  for block in (3, 1 << 20):
    monkeypatch.setattr('lctx.data.files.BLOCK', block)
    assert read(JsonLines(str(tmp_path / 'a.jsonl.gz'), split=BY_NAME)) == {
      'a.jsonl.gz:1': 'größer\n'.encode(),
      'a.jsonl.gz:4': b'long ' * 50,
    }


@pytest.mark.parametrize(
  ('line', 'words'),
  [
    ('{"text": "a"', 'a.jsonl:2 is not JSON'),
    ('{"body": "a", "id": 3}', "field='text' is missing.*a.jsonl:2.*body, id"),
    ('[1]', "field='text' is missing in line a.jsonl:2"),
    ('{"text": 7}', "field='text' is a int in line a.jsonl:2"),
    ('{"text": "\\ud800"}', 'a.jsonl:2 holds half a surrogate'),
    ('[' * 100_000, 'a.jsonl:2 is not JSON'),
  ],
)
def test_a_broken_line_is_named(tmp_path, line, words):
  path = tmp_path / 'a.jsonl'
  path.write_text(f'{{"text": "fine"}}\n{line}\n')
  with pytest.raises(ValueError, match=words):
    read(JsonLines(str(path)))


BROKEN = {
  '{"text": "a"': 'not JSON',
  '[' * 100_000: 'not JSON',
  '{"body": "a"}': 'without the field',
  '[1]': 'without the field',
  '{"text": null}': 'not a string',
  '{"text": "\\ud800"}': 'half a surrogate pair',
  '{"text": "\xff"}': 'not UTF-8',
  '{"text": ""}': 'empty',
}


def test_skipped_lines_are_counted_by_their_damage_and_the_others_read(
  tmp_path,
):
  fine = [f'{{"text": "text {number}"}}' for number in range(5)]
  lines = [*fine[:2], *BROKEN, *fine[2:]]
  (tmp_path / 'a.jsonl').write_bytes('\n'.join(lines).encode('latin-1'))
  for split in (BY_NAME, ByDocument()):
    corpus = JsonLines(str(tmp_path / 'a.jsonl'), split=split, damaged='skip')
    texts, found = [], []
    for name in SPLITS:
      found.append(LeftOut())
      texts += [
        (document.name, b''.join(document.blocks).decode())
        for document in corpus.documents(name, left_out=found[-1])
      ]
    assert len(texts) == 5
    assert dict(texts) == {
      f'a.jsonl:{line}': f'text {number}'
      for number, line in enumerate((1, 2, 11, 12, 13))
    }
    assert found[0].kinds == {
      'not JSON': (2, 'a.jsonl:3'),
      'without the field': (2, 'a.jsonl:5'),
      'not a string': (1, 'a.jsonl:7'),
      'half a surrogate pair': (1, 'a.jsonl:8'),
      'not UTF-8': (1, 'a.jsonl:9'),
      'empty': (1, 'a.jsonl:10'),
    }
    assert found[0] == found[1] == found[2]


def test_where_all_lines_are_skipped_the_error_says_how_many_and_why(tmp_path):
  lines = [line for line in BROKEN if line != '[1]']
  (tmp_path / 'a.jsonl').write_bytes('\n'.join(lines).encode('latin-1'))
  with pytest.raises(ValueError) as error:
    read(JsonLines(str(tmp_path / 'a.jsonl'), damaged='skip'))
  for part in ('empty corpus', '2 not JSON (first: a.jsonl:1)', '1 empty'):
    assert part in str(error.value)


def test_text_that_is_not_utf8_is_skipped_whole_for_those_who_read_characters(
  tmp_path, monkeypatch
):
  monkeypatch.setattr('lctx.data.files.BLOCK', 3)  # cuts characters
  whole = 'größer 日本\n'.encode()
  texts = {
    'a.txt': whole * 9,
    'b.txt': whole * 9 + whole[:3],  # ends inside a character
    'c.txt': whole + b'\xff' + whole,
    'd.txt': b'',
  }
  for name, text in texts.items():
    (tmp_path / name).write_bytes(text)
  found = {}
  for damaged in ('refuse', 'skip'):
    corpus = Text(str(tmp_path), BY_NAME, damaged=damaged)
    for utf8 in (False, True):
      left_out = LeftOut()
      given = corpus.documents('train', utf8=utf8, left_out=left_out)
      found[damaged, utf8] = [d.name for d in given], left_out.kinds
  every = ['a.txt', 'b.txt', 'c.txt'], {'empty': (1, 'd.txt')}
  skipped = ['a.txt'], {'not UTF-8': (2, 'b.txt'), 'empty': (1, 'd.txt')}
  assert found.pop(('skip', True)) == skipped
  assert all(value == every for value in found.values())


def test_text_of_which_nothing_is_utf8_is_an_empty_corpus(tmp_path):
  (tmp_path / 'a.txt').write_bytes(b'\xff')
  corpus = Text(str(tmp_path), damaged='skip')
  with pytest.raises(ValueError, match=r'1 not UTF-8 \(first: a.txt\)'):
    corpus.documents('train', utf8=True)


def test_skipping_makes_another_fingerprint_and_the_default_keeps_its_own(
  tmp_path,
):
  (tmp_path / 'a.jsonl').write_text('{"text": "fine"}\n')
  (tmp_path / 'a.txt').write_text('fine')
  for corpus, of in ((JsonLines, 'a.jsonl'), (Text, 'a.txt')):
    path = str(tmp_path / of)
    skips = corpus(path, damaged='skip')
    assert corpus(path).fingerprint() != skips.fingerprint()
  # As it was before there was a choice.
  assert JsonLines(str(tmp_path / 'a.jsonl')).fingerprint() == (
    'e8ee114a20ca9d13381b6aa700a907ea10e6d21cc532820bcce2a59c1f72a00a'
  )
  assert Text(str(tmp_path / 'a.txt')).fingerprint() == (
    '79a1f202229ced48230239a00377f599b8e5547500d0b918eeb4c31add295408'
  )


@pytest.mark.parametrize('corpus', [JsonLines, Text, Tfds])
def test_another_choice_for_damaged_texts_is_refused(corpus):
  with pytest.raises(ValueError, match=r"data.corpus.damaged='drop'.*'skip'"):
    corpus('a', damaged='drop')


def test_json_lines_without_text_are_an_empty_corpus(tmp_path):
  (tmp_path / 'a.jsonl').write_text('{"text": ""}\n')
  with pytest.raises(ValueError, match=r'empty corpus'):
    read(JsonLines(str(tmp_path / 'a.jsonl')))


def cut(tmp_path, name, data):
  (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
  return str(tmp_path / name)


@pytest.mark.parametrize('kind', PACK)
def test_a_cut_archive_is_refused(tmp_path, kind):
  path = cut(tmp_path, f'a.txt.{kind}', PACK[kind](os.urandom(5000)))
  with pytest.raises(ValueError, match=rf'data.corpus.path.*a.txt.{kind}'):
    read(Text(path, BY_NAME))


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('', 'data.corpus.path is empty'),
    ('none.txt', 'data.corpus.path=.*none.txt names no file'),
    ('no/*.txt', r'data.corpus.path=.*no/\*.txt names no file'),
    ('a.pdf', 'suffix .pdf'),
    ('pictures', 'holds 1 files but none of a kind'),
    ('empty.txt', 'empty corpus'),
    ('b.zip', 'cannot read .*b.zip'),
  ],
)
def test_a_path_that_cannot_be_read_is_named(tmp_path, name, words):
  (tmp_path / 'a.pdf').write_text('x')
  (tmp_path / 'pictures').mkdir()
  (tmp_path / 'pictures' / 'a.png').write_text('x')
  (tmp_path / 'empty.txt').write_text('')
  (tmp_path / 'b.zip').write_text('no archive')
  with pytest.raises(ValueError, match=words):
    read(Text(str(tmp_path / name) if name else ''))


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
  (tmp_path / 'a.txt').write_text('text')

  def refuse(path):
    raise PermissionError(13, 'Permission denied', str(path))

  monkeypatch.setattr(os, 'scandir', refuse)
  with pytest.raises(ValueError, match=r'cannot read .*Permission denied'):
    Text(str(tmp_path)).fingerprint()


def test_a_missing_zstandard_says_how_to_install_it(tmp_path, monkeypatch):
  import sys

  (tmp_path / 'a.txt.zst').write_bytes(b'anything')
  monkeypatch.setitem(sys.modules, 'zstandard', None)
  with pytest.raises(ValueError, match=r"pip install 'lctx\[zstd\]'"):
    read(Text(str(tmp_path / 'a.txt.zst'), BY_NAME))
