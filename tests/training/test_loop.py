"""The loop: a step, then the hooks; and how it hears that it should stop."""

import dataclasses
import signal
import threading

import pytest

from lctx.training.interrupt import Interrupt, Interrupted
from lctx.training.loop import loop


@dataclasses.dataclass(frozen=True)
class State:
  step: int = 0
  read: tuple[str, ...] = ()


def step(state, batch):
  made = State(state.step + 1, (*state.read, batch))
  return made, {'loss': made.step}


def run(steps=4, hooks=(), start=State(), interrupt=None):
  interrupt = interrupt or Interrupt()
  return loop(step, start, 'b{}'.format, steps, hooks, interrupt)


def test_step_i_reads_batch_i():
  assert run(3) == State(3, ('b0', 'b1', 'b2'))


def test_a_loop_goes_on_where_its_state_is():
  assert run(4, start=run(2)) == run(4)
  assert run(4, start=run(4)) == run(4)


def test_hooks_follow_each_step_in_order():
  told = []

  def hook(name):
    return lambda moment: told.append((name, moment.step, moment.stop))

  run(2, [hook('log'), hook('save')])
  assert told == [
    ('log', 1, False),
    ('save', 1, False),
    ('log', 2, True),
    ('save', 2, True),
  ]


def test_a_hook_is_told_the_state_after_the_step_and_its_metrics():
  moments = []
  end = run(2, [moments.append])
  assert moments[-1].state is end
  assert [moment.metrics for moment in moments] == [{'loss': 1}, {'loss': 2}]
  assert all(moment.waited >= 0 for moment in moments)


def test_a_hook_that_stops_is_the_last_but_for_later_hooks():
  saved = []

  def patience(moment):
    moment.stop = moment.stop or moment.step == 2

  end = run(9, [patience, lambda m: saved.append((m.step, m.stop))])
  assert end.step == 2
  assert saved == [(1, False), (2, True)]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_loop_after_the_step_under_way(number):
  stops = []
  with Interrupt() as interrupt:

    def hook(moment):
      stops.append(moment.stop)
      if moment.step == 2:
        signal.raise_signal(number)

    end = run(9, [hook], interrupt=interrupt)
  assert end.step == 3
  assert stops == [False, False, True]


def test_long_work_between_steps_hears_of_a_signal():
  with Interrupt() as interrupt:
    interrupt.check()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted):
      interrupt.check()


@pytest.fixture
def listening():
  """To Ctrl-C, which programs in the background of a script do not."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def test_the_second_signal_acts_at_once(listening):
  with Interrupt() as interrupt:
    signal.raise_signal(signal.SIGINT)
    assert interrupt.requested
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)


def test_signals_are_as_before_once_the_loop_is_left():
  before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
  with Interrupt():
    assert all(signal.getsignal(n) != before[n] for n in before)
  assert {n: signal.getsignal(n) for n in before} == before


def test_outside_the_main_thread_training_runs_and_says_what_is_missing(caplog):
  ends = []

  def train():
    with Interrupt() as interrupt:
      ends.append(run(2, interrupt=interrupt))

  thread = threading.Thread(target=train)
  thread.start()
  thread.join()
  assert ends == [run(2)]
  assert 'SIGTERM will not save' in caplog.text
