"""When disks fail: in a paragraph, in all processes alike, without noise."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from lctx.errors import UserError


class CheckpointError(UserError):
  """A checkpoint that cannot be written, read, or used for this run."""


class DamageError(Exception):
  """Why a checkpoint is not what was written."""


class QuietOrbax(logging.Filter):
  """Keeps the pages off the screen that Orbax logs about errors it raises."""

  def filter(self, record: logging.LogRecord) -> bool:
    return not (record.exc_info and 'orbax' in record.pathname)


@contextlib.contextmanager
def failing_as(what: str):
  """Turns what Orbax and the file system raise into one paragraph."""
  try:
    yield
  except Exception as error:
    raise CheckpointError(
      f'{what}: {reason(error)}. See that the disk has room and that the '
      'folder may be written; checkpoints saved before are as they were.'
    ) from error


def everywhere(what: str, read: Callable[[], Any]) -> Any:
  """Calls `read` in every process; if one fails, all call it damage.

  Else the others would wait for that one, for ever.
  """
  result, failure = None, ''
  try:
    result = read()
  except Exception as error:  # Orbax raises anything, `Exception` itself too
    failure = reason(error)
  if np.any(multihost_utils.process_allgather(np.array(bool(failure)))):
    failure = failure or 'another process failed'
    raise DamageError(f'its {what} cannot be read ({failure})')
  return result


def reason(error: BaseException) -> str:
  """The root of an error in a line; Orbax adds pages."""
  while error.__cause__ is not None:
    error = error.__cause__
  line = (str(error).splitlines() or [''])[0].split(' [tensorstore_spec')[0]
  line = line if len(line) <= 300 else line[:300] + ' ...'
  return line.rstrip('.') or type(error).__name__


@contextlib.contextmanager
def patient_event_loops():
  """Lets reads that are under way end before their event loop closes.

  Orbax closes the loop at the first error; then every other read prints a
  traceback ("Event loop is closed") when it ends.
  """

  class Patient(asyncio.SelectorEventLoop):
    def close(self):
      if not self.is_closed() and (left := asyncio.all_tasks(self)):
        self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
      super().close()

  new_event_loop = asyncio.new_event_loop
  asyncio.new_event_loop = Patient
  try:
    yield
  finally:
    asyncio.new_event_loop = new_event_loop
