"""Lets a trained model write on from a prompt, or from several.

Run: python -m lctx.generation --workdir=DIR --prompt='Once upon a time'
  [--config.data.long_texts=truncate|stride|carry, of prompts that are too long]
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags

import lctx
from lctx import command, config
from lctx.data.codec import Codec
from lctx.errors import UserError, checking
from lctx.generation import memory_file
from lctx.generation.sampling import Sampling
from lctx.generation.text import show_each, spell

WORKDIR = flags.DEFINE_string('workdir', None, 'folder of a trained model')
CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'best', "'best', 'latest' or a step"
)
PROMPT = flags.DEFINE_multi_string(
  'prompt', [], 'text to go on from; may be repeated; none: the very beginning'
)
PROMPT_FILE = flags.DEFINE_multi_string(
  'prompt_file', [], 'file whose text is a prompt; may be repeated'
)
MAX_NEW_TOKENS = flags.DEFINE_integer(
  'max_new_tokens', 200, 'how many tokens to write; 0: until it is stopped'
)
TEMPERATURE = flags.DEFINE_float(
  'temperature', 1.0, 'below 1 is safer, above bolder; 0: the likeliest token'
)
TOP_K = flags.DEFINE_integer('top_k', 0, 'of the k likeliest tokens; 0: all')
TOP_P = flags.DEFINE_float(
  'top_p', 1.0, 'of the likeliest tokens that hold this probability together'
)
MIN_P = flags.DEFINE_float(
  'min_p', 0.0, 'of tokens at least this times as likely as the likeliest'
)
REPETITION_PENALTY = flags.DEFINE_float(
  'repetition_penalty', 1.0, 'above 1, tokens that were there are less likely'
)
AFTER = flags.DEFINE_string(
  'after', None, 'memory file of what was read before: prompts go on from it'
)
SAVE_MEMORY = flags.DEFINE_string(
  'save_memory',
  None,
  'only read: a file for what is remembered of the prompt; writes no text',
)
SEED = flags.DEFINE_integer('seed', 0, 'the same seed writes the same text')


def main(overrides: command.Overrides) -> None:
  for name in overrides:
    if not f'{name}.'.startswith('data.long_texts.'):
      raise UserError(
        f'--config.{name} has no effect here: a trained model is used as it '
        'is, but for --config.data.long_texts. Leave it out; --help lists what '
        'else can be set.'
      )
  with checking():
    sampling = Sampling(
      TEMPERATURE.value,
      TOP_K.value,
      TOP_P.value,
      MIN_P.value,
      REPETITION_PENALTY.value,
    )
    files = [Path(name).read_bytes() for name in PROMPT_FILE.value]
  prompts = [*map(os.fsencode, PROMPT.value), *files] or [b'']
  loaded = lctx.load(WORKDIR.value, checkpoint=CHECKPOINT.value)
  changed = config.changed(loaded.config, overrides)
  loaded = loaded.with_long_texts(changed.data.long_texts)
  after = None
  if AFTER.value is not None:
    after = lctx.load_memory(AFTER.value, loaded)
  if SAVE_MEMORY.value is not None:
    _remember(loaded, prompts, after)
    return
  with checking():
    tokens = loaded.stream(
      prompts,
      MAX_NEW_TOKENS.value or None,
      sampling=sampling,
      seed=SEED.value,
      after=after,
    )
  try:
    if len(prompts) == 1:
      _show_as_it_comes(loaded.codec, tokens)
    else:
      show_each(loaded.codec, prompts, tokens)
  except BrokenPipeError:  # whoever reads has had enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _remember(
  loaded: lctx.Loaded, prompts: list[bytes], after: lctx.Remembered | None
) -> None:
  writing = MAX_NEW_TOKENS, TEMPERATURE, TOP_K, TOP_P, MIN_P
  for flag in (*writing, REPETITION_PENALTY, SEED):
    if flag.value != flag.default:
      raise UserError(
        f'--{flag.name} has no effect with --save_memory, which only reads. '
        'Leave it out, and write in a second call, --after the file.'
      )
  # Before the text is read, which may take long.
  file = memory_file.check_writable(SAVE_MEMORY.value)
  if len(prompts) > 1:
    raise UserError(
      f'--save_memory={SAVE_MEMORY.value} is for one text, but there are '
      f'{len(prompts)} prompts. Read them one at a time, each --after the file '
      'of the one before.'
    )
  with checking():
    memory = loaded.read(prompts[0], after=after)
  lctx.save_memory(memory, file)
  size = file.stat().st_size
  print(f'wrote {file}: {memory.tokens:,} tokens in {size:,} bytes')


def _show_as_it_comes(codec: Codec, tokens: Iterator[np.ndarray]) -> None:
  for text in spell(codec, (token for (token,) in tokens)):
    print(text, end='', flush=True)
  print()


if __name__ == '__main__':
  command.run(main, required=[WORKDIR])
