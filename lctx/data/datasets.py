"""TensorFlow Datasets by name, read without TensorFlow."""

import dataclasses
import difflib
import importlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from lctx.data.documents import Document, digest
from lctx.data.left_out import (
  EMPTY,
  NOT_UTF8,
  LeftOut,
  check_damaged,
  choice_hashed,
  is_utf8,
)

_log = logging.getLogger(__name__)

_CHUNK = 256  # examples read at a time
_NAMES = {
  'train': ('train',),
  'valid': ('validation', 'valid', 'dev', 'val'),
  'test': ('test',),
}
# What TFDS raises for names, folders and formats that it cannot read.
_TFDS_ERRORS = (
  ValueError,
  OSError,
  ImportError,
  AssertionError,
  NotImplementedError,
  KeyError,
)
# Builders that TFDS knows only after their module was imported.
_MODULES = {
  name: f'tensorflow_datasets.text.{name}'
  for name in ('wiki40b', 'c4', 'wikipedia', 'wiki_dialog')
}


@dataclasses.dataclass(frozen=True)
class Tfds:
  """A dataset of TensorFlow Datasets, prepared in array_record format.

  Each example's `field` is a document; `joined` makes the examples of a split
  lines of one document, so that memory flows from one to the next (as the
  published LM1B runs have it). `module` is imported first: it may define the
  builder. A dataset without a validation or test split gives up the first
  hundredths of its train split for them, and says so.

  Empty documents are left out and counted. `damaged`: where the tokenizer
  reads characters, an example that is not UTF-8 is an error ('refuse'), or
  left out and counted ('skip'), a line of `joined` ones too.
  """

  name: str = ''
  field: str = 'text'
  data_dir: str = ''
  joined: bool = False
  module: str = ''
  damaged: str = 'refuse'

  def __post_init__(self):
    check_damaged(self.damaged)

  def documents(
    self, split: str, *, utf8: bool = False, left_out: LeftOut | None = None
  ) -> Iterator[Document]:
    builder = self._builder()
    wanted = _split_of(builder, split)
    try:
      source = builder.as_data_source(split=wanted)
    except _TFDS_ERRORS as error:
      raise self._unreadable(error) from error
    name, out = f'{builder.info.full_name}/{wanted}', left_out or LeftOut()
    skips = utf8 and self.damaged == 'skip'
    texts = _Texts(self, source, name, skips, out)
    if self.joined:
      return iter([Document(name, _Lines(texts))])
    return (Document(name, [text], len(text)) for name, text in texts)

  def fingerprint(self, folder: str | Path | None = None) -> str:
    info = self._builder().info
    shards = [(n, s.shard_lengths, s.num_bytes) for n, s in info.splits.items()]
    parts = [info.full_name, repr(shards), self.field, repr(self.joined)]
    return digest('tfds', *parts, *choice_hashed(self.damaged))

  def _builder(self):
    if not self.name:
      raise ValueError(
        'data.corpus.name is empty. Set it to the name of a dataset, such as '
        '--config.data.corpus.name=lm1b'
      )
    tfds = _import_tfds()
    module = self.module or _MODULES.get(self.name.split('/')[0].split(':')[0])
    try:
      if module:
        importlib.import_module(module)
      # With array_record asked for, TFDS prefers a copy in that format.
      builder = tfds.builder(
        self.name,
        data_dir=self.data_dir or None,
        file_format='array_record',
        try_gcs=False,
      )
    except tfds.core.DatasetNotFoundError as error:
      raise self._unknown(tfds) from error
    except _TFDS_ERRORS as error:
      raise self._unreadable(error) from error
    if not builder.info.splits:
      raise self._unreadable(f'nothing is prepared in {builder.data_dir}')
    return builder

  def _unknown(self, tfds) -> ValueError:
    known = [*tfds.list_builders(with_community_datasets=False), *_MODULES]
    name = self.name.split('/')[0].split(':')[0]
    near = difflib.get_close_matches(name, known, n=3)
    meant = f' Did you mean {" or ".join(near)}?' if near else ''
    return ValueError(
      f'data.corpus.name={self.name} is no dataset that TFDS knows.{meant} If '
      'it was prepared elsewhere, set data.corpus.data_dir to that folder; if '
      'a module of yours defines it, set data.corpus.module.'
    )

  def _unreadable(self, error) -> ValueError:
    kind = type(error).__name__ + ': ' if isinstance(error, Exception) else ''
    reason = ' '.join(str(error).split())[:300]
    return ValueError(
      f'data.corpus.name={self.name} cannot be opened ({kind}{reason}). Check '
      'the name and data.corpus.data_dir, and prepare the dataset once with: '
      f'tfds build {self.name} --file_format=array_record'
    )


@dataclasses.dataclass(frozen=True)
class _Texts:
  """Names and texts of a data source; can be read more than once.

  What a whole pass left out is in `left_out` at its end.
  """

  corpus: Tfds
  source: Sequence
  name: str
  skips: bool  # what is not UTF-8
  left_out: LeftOut

  def __iter__(self) -> Iterator[tuple[str, bytes]]:
    any_text, out = False, LeftOut()
    for name, text in self._all():
      if not text and not self.corpus.joined:
        out.add(EMPTY, name)
      elif self.skips and not is_utf8([text]):
        out.add(NOT_UTF8, name)
      else:
        any_text = True
        yield name, text
    self.left_out.kinds = out.kinds
    if not any_text:
      raise ValueError(
        f'data.corpus.name={self.corpus.name} is an empty corpus: no example '
        f'of {self.name} has text that can be read. Left out: {out}. Use '
        'another dataset, or the name of another data.corpus.field.'
      )

  def _all(self) -> Iterator[tuple[str, bytes]]:
    size = len(self.source)
    for start in range(0, size, _CHUNK):
      chunk = range(start, min(start + _CHUNK, size))
      for number, example in zip(chunk, self.source.__getitems__(list(chunk))):
        yield f'{self.name}:{number}', _bytes(example, self.corpus)


@dataclasses.dataclass(frozen=True)
class _Lines:
  """The texts of a data source, each ended by a newline."""

  texts: _Texts

  def __iter__(self) -> Iterator[bytes]:
    for _, text in self.texts:
      yield text.rstrip(b'\n') + b'\n'


def _split_of(builder, split: str) -> str:
  """The TFDS name of a split, or a slice of train that stands for it."""
  sizes = {n: s.num_examples for n, s in builder.info.splits.items()}
  found = {s: next((n for n in _NAMES[s] if n in sizes), None) for s in _NAMES}
  if found['train'] is None:
    raise ValueError(
      f'data.corpus.name={builder.name} has no train split, only '
      f'{", ".join(sizes)}. Use another dataset.'
    )
  if found[split] and split != 'train':
    return found[split]
  missing = [s for s in ('valid', 'test') if not found[s]]
  if not missing:
    return found['train']
  share = max(1, sizes[found['train']] // 100)
  if sizes[found['train']] <= share * len(missing):
    raise ValueError(
      f'data.corpus.name={builder.name} has no {" and no ".join(missing)} '
      'split, and its train split is too small to be divided. Use another '
      'dataset.'
    )
  if split == 'train':
    taken = share * len(missing)
    _log.warning(
      '%s has no %s split: the first %d of its %d train examples serve',
      builder.name,
      ' and no '.join(missing),
      taken,
      sizes[found['train']],
    )
    return f'{found["train"]}[{taken}:]'
  start = share * missing.index(split)
  return f'{found["train"]}[{start}:{start + share}]'


def _bytes(example: dict, corpus: Tfds) -> bytes:
  if corpus.field not in example:
    raise ValueError(
      f'data.corpus.field={corpus.field!r} is not in the examples of '
      f'{corpus.name}, which have {", ".join(example)}. Set data.corpus.field '
      'to the one that holds the text.'
    )
  value = example[corpus.field]
  if isinstance(value, str):
    return value.encode()
  if not isinstance(value, bytes):
    raise ValueError(
      f'data.corpus.field={corpus.field!r} of {corpus.name} is a '
      f'{type(value).__name__} where we need text. Set data.corpus.field to '
      'the one that holds the text.'
    )
  return value


def _import_tfds():
  try:
    import array_record  # noqa: F401
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ValueError(
      'data.corpus=tfds needs packages that are not installed '
      f"({error.name}): pip install 'lctx[tfds]'"
    ) from error
  return tfds
