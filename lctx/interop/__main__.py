"""Writes a trained model as Hugging Face's libraries do.

python -m lctx.interop export --workdir=DIR --to=FOLDER [--like=FOLDER]
  [--architecture=NAME] [--checkpoint=best]

DIR is the workdir of a run, or a published model. `like` is the folder of the
published model it came from: ids of marks and the tokenizer are its own. It
also says which architecture to write; without it, name one.
"""

import shutil
import sys
from pathlib import Path

from absl import flags

import lctx
from lctx import command, data
from lctx.errors import UserError, checking, writable
from lctx.interop import hugging_face
from lctx.interop.find import folder_of

WORKDIR = flags.DEFINE_string('workdir', None, 'folder of a trained model')
TO = flags.DEFINE_string('to', None, 'a new folder to write')
LIKE = flags.DEFINE_string(
  'like', None, 'published model it came from: a folder, or one of the hub'
)
ARCHITECTURE = flags.DEFINE_string(
  'architecture', None, f'one of {", ".join(hugging_face.FAMILIES)}'
)
CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'best', "'best', 'latest' or a step"
)
TOKENIZER = (
  *('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'),
  *('tokenizer.model', 'spiece.model', 'vocab.txt', 'vocab.json'),
  *('merges.txt', 'added_tokens.json', 'generation_config.json'),
)


def main(overrides: command.Overrides) -> None:
  if overrides:
    raise UserError(
      'export takes no --config.NAME=VALUE: a model is written as it is.'
    )
  loaded = lctx.load(WORKDIR.value, checkpoint=CHECKPOINT.value)
  like, config, name = None, {}, ARCHITECTURE.value
  folder = Path(TO.value).expanduser()
  if folder.exists() and any(folder.iterdir()):
    raise UserError(
      f'to = {TO.value} has files already, which would mix with those that '
      'are written. Give --to a new name.'
    )
  with checking():
    if LIKE.value:
      like = folder_of(LIKE.value)
      config = hugging_face.config_in(like)
      name = name or hugging_face.architecture(config, like)
    if name is None:
      raise UserError(
        'Nothing says which architecture to write. Give --like the published '
        'model that it came from, or --architecture one of '
        f'{", ".join(hugging_face.FAMILIES)}.'
      )
    if like is not None:
      own, theirs = str(loaded.codec), str(data.published_codec(like))
      if own != theirs:
        raise UserError(
          f'The model was trained with the tokenizer {own}, and --like = '
          f'{LIKE.value} has {theirs}. Name a model with the same one, or give '
          '--architecture alone: then no tokenizer is written.'
        )
    given = loaded.model, loaded.params, name
    hugging_face.save(folder, *given, like=config)
  if like is not None:
    for file in TOKENIZER:
      if (like / file).is_file():
        shutil.copyfile(like / file, writable(folder) / file)
  print(f'wrote {folder}, step {loaded.step:,} as {name}')


if __name__ == '__main__':
  if sys.argv[1:2] != ['export']:
    print(__doc__.strip())
    sys.exit(2)
  del sys.argv[1]
  command.run(main, required=[WORKDIR, TO])
