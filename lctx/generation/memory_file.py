"""What a model remembers of a text, as a file: to go on from anywhere.

A `.safetensors` file of the arrays of a `Remembered`, by name, with what made
it: the model and its parameters, the tokenizer, and the text by its hash.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError, flax, safe_open

from lctx.checksum import named_leaves
from lctx.data.files import write_whole
from lctx.errors import UserError, checking
from lctx.generation.reading import Remembered, State

FORMAT = 'lctx memory 1'
PRIME, BASE = 2**127 - 1, 0x9E3779B97F4A7C15F39CC0605CEDC835


def grown(text: str, ids: np.ndarray) -> str:
  """The hash of a text and `ids` behind it, however it was cut before."""
  number = int(text or '0', 16)
  for token in ids.tolist():
    number = (number * BASE + token + 1) % PRIME
  return f'{number:032x}'


def save_memory(remembered: Remembered, path: str | Path) -> None:
  """Writes what was read to a `.safetensors` file, at once or not at all.

  Raises UserError where it cannot be written.
  """
  about = {
    'format': FORMAT,
    'tokens': str(remembered.tokens),
    'text': remembered.text,
    'maker': json.dumps(remembered.maker),
  }
  arrays = jax.device_get(named_leaves(remembered.state))
  with checking():
    write_whole(Path(path).expanduser(), flax.save(arrays, about))


def check_writable(path: str | Path) -> None:
  """Raises UserError where `save_memory` could not write to `path`."""
  folder = Path(path).expanduser().parent
  with checking():
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass


def read_memory(
  path: str | Path, maker: dict[str, str], empty: State
) -> Remembered:
  """What `save_memory` wrote, for the model of `maker`.

  `empty`: the state of one row that has read nothing, or its shapes.

  Raises:
    UserError: no such file, no memory, or one that another model made.
  """
  path = Path(path).expanduser()
  if not path.is_file():
    raise UserError(
      f'There is no file {path}. Give one that lctx.save_memory wrote.'
    )
  try:
    with safe_open(path, framework='flax') as file:
      about, names = file.metadata() or {}, file.keys()
      arrays = {name: file.get_tensor(name) for name in names}
  except (SafetensorError, OSError) as error:
    raise UserError(
      f'{path} is damaged or no .safetensors file: {error}. Copy it again, or '
      'read the text again.'
    ) from error
  if about.get('format') != FORMAT:
    raise UserError(
      f'{path} is of the format {about.get("format")!r}, and {FORMAT!r} is '
      'needed. Give a file that lctx.save_memory of this version wrote.'
    )
  check_maker(json.loads(about['maker']), maker, f'The memory in {path}')
  _check_shapes(path, arrays, named_leaves(empty))
  leaves = [arrays[name] for name in named_leaves(empty)]
  state = jax.tree.unflatten(jax.tree.structure(empty), leaves)
  return Remembered(state, int(about['tokens']), about['text'], maker)


def hash_of(body: dict) -> str:
  text = json.dumps(body, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_maker(saved: dict, maker: dict, what: str) -> None:
  """Raises UserError where another model than `maker` made a memory."""
  for name in maker:
    if saved.get(name) != maker[name]:
      raise UserError(
        f'{what} was made with another {name}: {saved.get(name)} there and '
        f'{maker[name]} here. Use it with the model that read the text, or '
        'read the text again.'
      )


def _check_shapes(path, arrays, wanted):
  for name in sorted({*arrays, *wanted}):
    there, here = (
      f'{x.dtype} {list(x.shape)}' if x is not None else 'nothing'
      for x in (arrays.get(name), wanted.get(name))
    )
    if there != here:
      raise UserError(
        f'The memory in {path} does not fit: {name} is {there} there and '
        f'{here} here. Load the model as it was when it read the text.'
      )
