"""How far a run is, for whoever watches it."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm.std import tqdm


class Progress:
  """A bar where somebody looks, a line now and then where it goes to a file.

  Both show loss, tokens per second and the time left.
  """

  def __init__(
    self,
    total: int,
    start: int = 0,
    *,
    stream: TextIO | None = None,
    pause: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
  ):
    """`total` and `start` count steps; `pause`: seconds between two lines."""
    self._stream = stream or sys.stderr
    self._total, self._pause, self._clock = total, pause, clock
    self._first: tuple[int, float] | None = None
    self._line_at = -float('inf')
    self._figures = ''
    self._bar = None
    if self._stream.isatty() or _in_a_notebook():
      self._bar = tqdm(
        total=total,
        initial=start,
        unit='step',
        file=self._stream,
        dynamic_ncols=True,
      )

  def update(
    self, done: int, loss: float | None = None, speed: float | None = None
  ) -> None:
    """`done` steps of `total` are made; `speed` in tokens per second."""
    figures = []
    if loss is not None:
      figures.append(f'loss {loss:.3f}')
    if speed is not None:
      figures.append(f'{speed:,.0f} tokens/s')
    self._figures = ', '.join(figures) or self._figures
    if self._bar is not None:
      self._bar.set_postfix_str(self._figures, refresh=False)
      self._bar.update(done - self._bar.n)
    else:
      self._line(done)

  def say(self, text: str) -> None:
    """A line of its own, above the bar."""
    if self._bar is not None:
      tqdm.write(text, file=self._stream)
    else:
      print(text, file=self._stream, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _line(self, done: int) -> None:
    now = self._clock()
    # The first step compiles, so its time says nothing of the others.
    self._first = self._first or (done, now)
    if now - self._line_at < self._pause and done < self._total:
      return
    self._line_at = now
    parts = [f'step {done}/{self._total}', self._figures, self._left(done, now)]
    self.say(', '.join(filter(None, parts)))

  def _left(self, done: int, now: float) -> str:
    first_done, first_now = self._first
    if done == first_done:
      return ''
    seconds = (self._total - done) * (now - first_now) / (done - first_done)
    return f'{tqdm.format_interval(seconds)} left'


def _in_a_notebook() -> bool:
  interactive = sys.modules.get('IPython')
  shell = interactive.get_ipython() if interactive else None
  return hasattr(shell, 'kernel')
