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


def writable(workdir: str | os.PathLike) -> Path:
  """The folder of that name, made if it was missing and known to be writable.

  Raises UserError where it cannot be made or written.
  """
  if not os.fspath(workdir):
    raise UserError('workdir is empty. Give --workdir the name of a folder.')
  check_local(workdir, 'workdir')
  try:
    return made(workdir)
  except OSError as error:
    raise UserError(
      f'workdir = {str(workdir)!r} cannot be written: {error.strerror}. '
      'Checkpoints and logs go there. Give --workdir a folder that you may '
      'write, or a new name beside one.'
    ) from error


def check_local(path: str | os.PathLike, name: str) -> None:
  """Raises UserError for a place in an object store; `name` is its flag's."""
  if '://' in os.fspath(path):
    raise UserError(
      f'{name} = {str(path)!r} is in an object store, where lctx cannot '
      f'write yet. Give --{name} a local place, and copy or mount it.'
    )


def made(folder: str | os.PathLike) -> Path:
  """Made if it was missing. Raises OSError where nothing can be written."""
  path = Path(folder).expanduser()
  path.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryFile(dir=path):
    return path


def _about_file(error: OSError) -> str:
  if error.filename is None:
    return str(error)
  return (
    f'{os.fspath(error.filename)!r}: {error.strerror}. Check the name and '
    'that you may read or write it.'
  )
