"""The user's mistakes: one paragraph each, told apart from our own.

Parts raise ValueError where they are built, and files raise OSError. Only
inside `checking()` do these count as mistakes of the user: it encloses what
happens before anything compiles. A ValueError from anywhere else is a bug,
and keeps its traceback.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


class UserError(ValueError):
  """What the user can put right: what we got, what we need, what to change.

  Programs print it as one paragraph and end with code 2.
  """


class RunError(RuntimeError):
  """Why a run that began well cannot go on, and what to do.

  Programs print it as one paragraph and end with code 1.
  """


@contextlib.contextmanager
def checking() -> Iterator[None]:
  """Turns ValueError and OSError of the code inside into UserError."""
  try:
    yield
  except UserError:
    raise
  except OSError as error:
    raise UserError(_about_file(error)) from error
  except ValueError as error:
    raise UserError(str(error)) from error


def writable(folder: str | os.PathLike, name: str = 'workdir') -> Path:
  """The folder, made if it was missing and known to be writable.

  Raises UserError where it cannot be made or written; `name` is what the user
  knows it by.
  """
  if not os.fspath(folder):
    raise UserError(f'{name} is empty. Give --{name} the name of a folder.')
  if '://' in os.fspath(folder):
    raise UserError(
      f'{name} = {str(folder)!r} is in an object store, where lctx cannot '
      f'write yet. Give --{name} a local folder, and copy or mount it.'
    )
  path = Path(folder).expanduser()
  try:
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
      pass
  except OSError as error:
    raise UserError(
      f'{name} = {str(folder)!r} cannot be written: {error.strerror}. Give '
      f'--{name} a folder that you may write, or a new name beside one.'
    ) from error
  return path


def _about_file(error: OSError) -> str:
  if error.filename is None:
    return str(error)
  return (
    f'{os.fspath(error.filename)!r}: {error.strerror}. Check the name and '
    'that you may read or write it.'
  )
