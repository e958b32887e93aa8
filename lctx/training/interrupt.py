"""A request to stop (SIGTERM, or Ctrl-C) that is heard at the next step."""

import logging
import signal
import threading

_log = logging.getLogger(__name__)


class Interrupted(Exception):
  """Raised from long work between steps once a stop was asked for."""


class Interrupt:
  """While entered, the first signal asks to stop; the second acts at once.

  Python runs handlers in its main thread only; elsewhere nothing is caught,
  and that is logged.
  """

  def __init__(self):
    self.requested = False
    self._before: dict = {}

  def __enter__(self) -> 'Interrupt':
    if threading.current_thread() is not threading.main_thread():
      _log.warning('Not in the main thread: SIGTERM will not save.')
      return self
    for number in (signal.SIGTERM, signal.SIGINT):
      self._before[number] = signal.signal(number, self._hear)
    return self

  def __exit__(self, *_) -> None:
    while self._before:
      signal.signal(*self._before.popitem())

  def check(self) -> None:
    """Raises Interrupted if a stop was asked for."""
    if self.requested:
      raise Interrupted

  def _hear(self, number, frame):
    self.requested = True
    for caught, before in self._before.items():
      signal.signal(caught, before)
    name = signal.Signals(number).name
    _log.warning('%s: saving, then stopping. Once more ends at once.', name)
