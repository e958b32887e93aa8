"""Reading a text again, against taking up what was remembered of it.

python -m benchmarks.portable_memory --workdir=DIR --text=FILE [--json=FILE]

A memory has one size whatever was read, so the longer the text, the more its
file saves.
"""

import functools
import tempfile
from pathlib import Path

from absl import flags

import lctx
from benchmarks import timing
from lctx.errors import checking
from lctx.loaded import Loaded

COLUMNS = ('tokens', 'text KB', 'memory KB', 'read s', 'save s', 'load s')
PARTS = 64, 8, 1  # of the text
ROUNDS = 3


def measured(loaded: Loaded, text: bytes, folder: Path) -> dict[str, object]:
  """Seconds are medians of turns; the file is in the cache of the system."""
  memory = loaded.read(text)
  path = folder / 'memory.safetensors'
  lctx.save_memory(memory, path)
  calls = {
    'read': functools.partial(_state_of, loaded.read, text),
    'save': functools.partial(lctx.save_memory, memory, path),
    'load': functools.partial(_state_of, lctx.load_memory, path, loaded),
  }
  seconds = timing.interleaved(calls, ROUNDS)
  return {
    'tokens': memory.tokens,
    'text_bytes': len(text),
    'file_bytes': path.stat().st_size,
    **{f'{name}_seconds': seconds[name].wall for name in calls},
  }


def _first(text: bytes, size: int) -> bytes:
  """About that many bytes of a text, cut between characters."""
  return text[:size].decode('utf-8', 'ignore').encode()


def _state_of(make, *arguments):
  return make(*arguments).state


def _row(found: dict) -> list[object]:
  sizes = (found[f'{name}_bytes'] / 1000 for name in ('text', 'file'))
  seconds = (found[f'{name}_seconds'] for name in ('read', 'save', 'load'))
  return [f'{found["tokens"]:,}', *sizes, *seconds]


def program() -> None:
  """The command line; its flags are defined only where it is the program."""
  workdir = flags.DEFINE_string('workdir', None, 'What train.py was given.')
  file = flags.DEFINE_string('text', None, 'A text to read.')
  path = flags.DEFINE_string('json', '', 'A file for all that was found.')

  def main() -> None:
    loaded = lctx.load(workdir.value)
    if not Path(file.value).is_file():
      raise lctx.UserError(f'--text={file.value} is no file. Give one to read.')
    text = Path(file.value).read_bytes()
    print(timing.heading(timing.machine()))
    with tempfile.TemporaryDirectory() as folder, checking():
      cells = [
        measured(loaded, _first(text, len(text) // part), Path(folder))
        for part in PARTS
      ]
    print(f'\n{timing.table(COLUMNS, list(map(_row, cells)))}')
    found = {'machine': timing.machine(), 'cells': cells}
    timing.save_json(found, path.value)

  timing.run(main, required=[workdir, file])


if __name__ == '__main__':
  program()
