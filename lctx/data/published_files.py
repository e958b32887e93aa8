"""The layouts in which published tokenizers come, read into one library."""

import json
from collections.abc import Callable
from pathlib import Path

from lctx.data.published_marks import USUAL, content_of, settings
from lctx.data.published_pieces import BYTES

# The first that is there is read.
LAYOUTS = (
  ('tokenizer.json',),
  ('tokenizer.model',),
  ('spiece.model',),
  ('vocab.txt',),
  ('vocab.json', 'merges.txt'),
)
# The classes of `transformers` that read such files as we do, where a folder
# names its class: others split text in ways that the files do not say.
_CLASSES = {
  'tokenizer.model': ('Llama', 'CodeLlama', 'Gemma'),
  'spiece.model': ('T5', 'BigBird', 'XLNet'),
  'vocab.txt': (
    *('Bert', 'DistilBert', 'MobileBert', 'Electra', 'ConvBert', 'SqueezeBert'),
    *('MPNet', 'Lxmert', 'Funnel'),
  ),
  'vocab.json': (
    *('GPT2', 'Roberta', 'Bart', 'Longformer', 'LED', 'Mvp', 'Deberta'),
    'CodeGen',
  ),
}


SIDES = 'sep', 'cls'


def layout_of(folder: Path) -> str:
  """The first file of the layout in which the folder holds a tokenizer.

  Raises: ValueError where there is none, or one that is read otherwise.
  """
  for layout in LAYOUTS:
    if all((folder / name).is_file() for name in layout):
      _check_class(folder, layout[0])
      return layout[0]
  looked = ', '.join(' with '.join(names) for names in LAYOUTS)
  raise ValueError(
    f'{folder} is no folder that holds a tokenizer. We looked for {looked}. '
    'Give the folder of a checkpoint, with one of these in it.'
  )


def read(folder: Path, layout: str):
  """A `tokenizers.Tokenizer` of a layout that is no SentencePiece model."""
  if layout == 'vocab.txt':
    return _word_piece(folder)
  if layout == 'vocab.json':
    return _byte_level(folder)
  path = folder / layout
  return from_text(_text(path), str(path))


def from_text(text: str, where: str):
  """The `tokenizers.Tokenizer` of a `tokenizer.json`; it neither cuts nor pads.

  Raises: ValueError where `where` is damaged, or newer than the library.
  """
  tokenizer = _built(_library().Tokenizer.from_str, text, where=where)
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer


def _check_class(folder: Path, file: str) -> None:
  """Raises ValueError where the folder says that `file` is read otherwise."""
  name = settings(folder).get('tokenizer_class')
  known = [f'{stem}Tokenizer' for stem in _CLASSES.get(file, ())]
  if known and name and name.removesuffix('Fast') not in known:
    raise ValueError(
      f'{folder} says that its tokenizer_class is {name}, which we can read '
      f'from a tokenizer.json alone; from {file} we read {", ".join(known)}. '
      'Save it again with the library transformers, which writes a '
      'tokenizer.json.'
    )


def _word_piece(folder: Path):
  """BERT's: `vocab.txt`, a token a line, and options beside it."""
  tokenizers, said = _library(), settings(folder)
  path = folder / 'vocab.txt'
  unknown = content_of(said.get('unk_token', '[UNK]'))
  tokens = _text(path).removesuffix('\n').split('\n')
  vocabulary = {token.rstrip('\r'): id for id, token in enumerate(tokens)}
  if unknown not in vocabulary:
    raise ValueError(
      f'{path} is damaged or no WordPiece vocabulary: it has no {unknown}. '
      'Download it again, or name its unk_token in tokenizer_config.json.'
    )
  model = tokenizers.models.WordPiece(vocabulary, unk_token=unknown)
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
    handle_chinese_chars=said.get('tokenize_chinese_chars', True),
    strip_accents=said.get('strip_accents'),
    lowercase=said.get('do_lower_case', True),
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = tokenizers.decoders.WordPiece()
  _add_usual(tokenizer)
  around = [content_of(said.get(f'{x}_token', USUAL[x][0])) for x in SIDES]
  if {*around} <= vocabulary.keys():
    ends = [(mark, vocabulary[mark]) for mark in around]
    tokenizer.post_processor = tokenizers.processors.BertProcessing(*ends)
  return tokenizer


def _byte_level(folder: Path):
  """GPT-2's and RoBERTa's: `vocab.json` and `merges.txt`."""
  tokenizers, path = _library(), folder / 'merges.txt'
  vocabulary = _vocabulary(folder / 'vocab.json')
  lines = [line for line in _text(path).split('\n') if line.strip()]
  merges = [tuple(line.split()) for line in lines if line[:9] != '#version:']
  model = _built(tokenizers.models.BPE, vocabulary, merges, where=str(path))
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=settings(folder).get('add_prefix_space', False)
  )
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  _add_usual(tokenizer)
  if {'<s>', '</s>'} <= vocabulary.keys():  # RoBERTa's stand around a text
    ends = [(mark, vocabulary[mark]) for mark in ('</s>', '<s>')]
    around = tokenizers.processors.RobertaProcessing(*ends)
    tokenizer.post_processor = around
  return tokenizer


def _library():
  """The package `tokenizers`. Raises ValueError where it is missing."""
  try:
    import tokenizers
  except ImportError as error:
    raise ValueError(
      'a published tokenizer needs a package that is not installed '
      f"({error.name}): pip install 'lctx[hf]'"
    ) from error
  return tokenizers


def _vocabulary(path: Path) -> dict[str, int]:
  text = _text(path)
  try:
    vocabulary = json.loads(text)
  except ValueError as error:
    raise ValueError(
      f'{path} is damaged ({error}). Download it again.'
    ) from error
  if not isinstance(vocabulary, dict) or not vocabulary.keys() >= BYTES.keys():
    raise ValueError(
      f'{path} is damaged or no byte-level vocabulary: it has not all of the '
      '256 bytes. Download it again; of other kinds we read a tokenizer.json.'
    )
  if 'a</w>' in vocabulary:
    raise ValueError(
      f'{path} marks the ends of words, as CLIP and GPT-1 do. We read that '
      'from no files. Give the folder of another tokenizer.'
    )
  return vocabulary


def _add_usual(tokenizer) -> None:
  """Makes marks of the tokens in the vocabulary that usually are."""
  usual = {name: None for names in USUAL.values() for name in names}
  for name in usual:
    if tokenizer.token_to_id(name) is not None:
      # Before RoBERTa's <mask> a space is no token of its own.
      token = _library().AddedToken(name, lstrip=name == '<mask>', special=True)
      tokenizer.add_special_tokens([token])


def _text(path: Path) -> str:
  try:
    return path.read_bytes().decode()
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path} is damaged ({error}). Download it again.'
    ) from error


def _built(build: Callable, *arguments, where: str):
  try:
    return build(*arguments)
  except Exception as error:  # the library raises no narrower class
    raise ValueError(
      f'{where} is damaged, or newer than the installed package tokenizers '
      f'({error}). Download it again, or install a newer one.'
    ) from error
