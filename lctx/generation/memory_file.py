"""What a model remembers of a text, as a file: to go on from anywhere.

A `.safetensors` file of the arrays of a `Remembered`, by name, with what made
it and their checksums. Its text is known by a hash of the token ids, which
tells texts apart and is no proof against forgery.
"""

import hashlib
import json
import os
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError, flax, safe_open

from lctx.checksum import named_leaves, sealed, table, unsealed
from lctx.data.files import write_whole
from lctx.errors import UserError, check_local, checking, made
from lctx.generation.reading import Remembered, State

FORMAT = 'lctx memory 1'
PRIME, BASE = 2**127 - 1, 0x9E3779B97F4A7C15F39CC0605CEDC835  # odd, arbitrary


def grown(text_hash: str, ids: np.ndarray) -> str:
  """The hash of a text with `ids` after it: a polynomial of all ids.

  However a text is cut, its hash is the same; that of nothing is ''.
  """
  number = int(text_hash or '0', 16)
  for token in ids.tolist():
    number = (number * BASE + token + 1) % PRIME
  return f'{number:032x}'


def save_memory(remembered: Remembered, path: str | Path) -> None:
  """Writes what was read to a `.safetensors` file, at once or not at all.

  Raises UserError where it cannot be written.
  """
  whole = check_writable(path)
  about = sealed(
    {
      'tokens': remembered.tokens,
      'text': remembered.text_hash,
      'maker': remembered.maker,
      'arrays': table(remembered.state),
    }
  )
  arrays = jax.device_get(named_leaves(remembered.state))
  with checking():
    write_whole(whole, flax.save(arrays, {FORMAT: json.dumps(about)}))


def check_writable(path: str | Path) -> Path:
  """The file's whole path. Raises UserError where it could not be written."""
  if not os.fspath(path) or Path(path).expanduser().is_dir():
    raise UserError(
      f'The memory file {os.fspath(path)!r} is a folder or has no name. Name a '
      'file, such as book.safetensors.'
    )
  check_local(path, 'save_memory')
  with checking():
    return made(Path(path).parent) / Path(path).name


def read_memory(
  path: str | Path, maker: dict[str, str], empty: State
) -> Remembered:
  """What `save_memory` wrote, for the model of `maker`.

  `empty`: the state of one row that has read nothing, or its shapes.

  Raises:
    UserError: no such file, no memory, damaged, or made by another model.
  """
  path = Path(path).expanduser()
  if not path.is_file():
    raise UserError(
      f'There is no file {str(path)!r}. Give one that lctx.save_memory wrote.'
    )
  about, arrays = _read(path)
  check_maker(about['maker'], maker, f'The memory in {path}')
  wanted = named_leaves(empty)
  for name in sorted({*arrays} | {*wanted}):
    there, here = (_kind(x.get(name)) for x in (arrays, wanted))
    if there != here:
      raise UserError(
        f'The memory in {path} has another layout than this version of lctx '
        f'gives it: {name} is {there} there and {here} here. Read the text '
        'again.'
      )
  leaves = [arrays[name] for name in wanted]
  state = jax.tree.unflatten(jax.tree.structure(empty), leaves)
  return Remembered(state, about['tokens'], about['text'], maker)


def _read(path: Path) -> tuple[dict, dict]:
  """What a file says of itself, and its arrays by name."""
  try:
    with checking(), safe_open(path, framework='flax') as file:
      about, names = (file.metadata() or {}).get(FORMAT), file.keys()
      arrays = {name: file.get_tensor(name) for name in names}
    about = about and json.loads(about)
  except (SafetensorError, json.JSONDecodeError) as error:
    raise _damaged(path) from error
  if about is None:
    raise UserError(
      f'{path} is not of the format {FORMAT!r}. Give a file that '
      'lctx.save_memory of this version wrote.'
    )
  if not unsealed(about) or table(arrays) != about['arrays']:
    raise _damaged(path)
  return about, arrays


def _kind(array) -> str:
  return 'missing' if array is None else f'{array.dtype} {array.shape}'


def _damaged(path: Path) -> UserError:
  return UserError(
    f'{path} is damaged or no .safetensors file. Copy it again, or read the '
    'text again.'
  )


def hash_of(body: dict) -> str:
  text = json.dumps(body, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_maker(
  saved: dict[str, str], maker: dict[str, str], what: str
) -> None:
  """Raises UserError where another model than `maker` made a memory."""
  differ = [
    f'{name} is {saved.get(name)} there and {maker.get(name)} here'
    for name in sorted({*saved, *maker})
    if saved.get(name) != maker.get(name)
  ]
  if differ:
    raise UserError(
      f'{what} is of another model: {"; ".join(differ)}. Use the model that '
      'read the text, or read the text again.'
    )
