"""How far each memory learns to recall: a curriculum of longer and longer gaps.

python -m benchmarks.learning [--memory=NAME ...] [--seeds=3] [--minutes=30]
  [--results=FILE] [--picture=FILE]

The task is in `benchmarks/recall.py`. A model learns to recall within a
segment, then over gaps of 1, 2, 4 and 8 segments, with gradients through all
segments of a text. A gap is trained on until 92 % of its answers by keys it
never saw are right, the last until 95 %; for 2,000 steps at most, fewer if 500
bring nothing better, or leave it with less than a quarter. Where it had 90 % it
goes on to the next gap, as it was at its best; else the run ends. Then the
model, as it was at the last gap it learned, is asked, on other texts, over
longer gaps than it ever met, and with its memory taken away before it is asked;
by the same keys, which so had a say in when training ends. What is held is the
longest gap to which accuracy stays at 90 %, from that one on. To keep the first
segment of a text and nothing of the others is enough for that.

Every layer that attends also sees the values of the last four tokens
(`benchmarks/neighbours.py`), matrices begin at 1 / sqrt(width) and the output
is not tied; with none of these, attention was still guessing after 1,000 steps
of a gap of one. Two plateaus say what is learned: 0.15 is the best guess among
the eight values, some of which are the same, 0.75 among those whose keys share
one of their two tokens.
"""

import dataclasses
import functools
import itertools
import logging
import time

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from absl import flags
from matplotlib import pyplot

from benchmarks import timing
from benchmarks.memories import Size, memories, model_with
from benchmarks.neighbours import Neighbours
from benchmarks.recall import CHANCE, SEGMENT, VOCAB, Recall
from lctx.memory import Memory, OnLayers, Together
from lctx.models.segments import split
from lctx.models.text import Decoder
from lctx.training.state import State
from lctx.training.step import Training, make_step
from lctx.types import segment_coords

GAPS, BEYOND = (0, 1, 2, 4, 8), (1, 2, 4, 8, 16, 32, 64)
LEARNED, LAST, HELD, GUESSING = 0.92, 0.95, 0.9, 0.25
SIZE = Size(
  *(2, 128, 32, SEGMENT),
  slots=4 * SEGMENT,
  searched=32 * SEGMENT,
  tokens=32 * SEGMENT,
  peak=1e-3,
)
ROWS = SIZE.tokens // SEGMENT
TEXTS = 256  # that are asked, eight answers each
WARMUP, EVERY, STEPS, PATIENCE = 50, 50, 2000, 500


@dataclasses.dataclass
class Learner:
  """A model that learns gap after gap."""

  model: Decoder
  seed: int

  def __post_init__(self):
    schedule = optax.warmup_constant_schedule(0, SIZE.peak, WARMUP)
    self.transform = optax.chain(
      optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99)
    )
    self.params = jax.jit(self.model.init_params)(jax.random.key(self.seed))
    self.moments, self.steps = self.transform.init(self.params), 0

  def learn(
    self, gap: int, enough: float, until: float
  ) -> list[tuple[int, float]]:
    """Trains on a gap, `until` a moment at most; steps and accuracies.

    What is kept of it is the model at its best.
    """
    task, found, first = Recall(gap), [], self.steps
    settings = Training(gradient_segments=task.segments - 1)
    step = make_step(self.model, self.transform, settings, SEGMENT)
    state, best, kept = self._state(), -1.0, (self.params, self.moments)
    while time.monotonic() < until and self.steps < first + STEPS:
      for _ in range(EVERY):
        batch = task.batch(ROWS, 1 + self.steps + 10**6 * self.seed)
        state, _ = step(state, batch)
        self.steps += 1
      self.params, self.moments = state.params, state.moments
      found.append((self.steps, self.accuracy(gap)))
      state = self._state()
      if found[-1][1] > best:
        best, at = found[-1][1], self.steps
        kept = self.params, self.moments
      if best >= enough or ended(best, self.steps - first, self.steps - at):
        break
    self.params, self.moments = kept
    return found

  def accuracy(self, gap: int, seed: int = 0, off: bool = False) -> float:
    """Of answers by keys of no text of training."""
    task = Recall(gap, held_out=True)
    carry, batch = self.model.initial(TEXTS), task.batch(TEXTS, seed)
    right = _right(self.model, task, off, self.params, carry, batch)
    return float(right.mean())

  def _state(self) -> State:
    zero = functools.partial(jnp.zeros, (), jnp.int32)
    copy = functools.partial(jax.tree.map, jnp.array)
    return State(
      step=zero(),
      params=copy(self.params),
      average=None,
      moments=copy(self.moments),
      carry=copy(self.model.initial(ROWS)),
      key=jax.random.key(self.seed),
      updates=zero(),
      skipped=zero(),
    )


def ended(best: float, steps: int, since: int) -> bool:
  """Whether a gap is given up, or learned as well as it will be.

  After so many steps, and so many `since` the best accuracy.
  """
  return since >= PATIENCE or (best < GUESSING and steps >= PATIENCE)


def model_of(memory: Memory) -> Decoder:
  """With a memory, and neighbours wherever a layer attends."""
  model = model_with(with_neighbours(memory), SIZE, VOCAB)
  embed = dataclasses.replace(model.embed, tie_weights=False)
  stack = dataclasses.replace(model.stack, initializer_range=None)
  return dataclasses.replace(model, embed=embed, stack=stack)


def with_neighbours(memory: Memory) -> Memory:
  if isinstance(memory, OnLayers):
    here, others = map(with_neighbours, (memory.memory, memory.others))
    return OnLayers(memory.layers, here, others)
  return Together(memory, Neighbours()) if memory.attends else memory


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _right(model: Decoder, task: Recall, off: bool, params, carry, batch):
  """Whether each answer is right, [rows, answers].

  The empty `carry` is given: what follows from a constant one of 1,024 slots
  XLA would compute while it compiles, which takes longer than all the rest.
  """
  given, rows = {'params': params}, batch.tokens.shape[0]

  def one(carry, inputs):
    tokens, document = inputs
    hidden, carry, _ = model.apply(
      given, tokens, segment_coords(document), carry
    )
    return carry, hidden

  parts = split((batch.tokens, batch.document), SEGMENT)
  before, last = (
    jax.tree.map(lambda x, s=s: x[s], parts)
    for s in (slice(-1), slice(-1, None))
  )
  carry, _ = jax.lax.scan(one, carry, before)
  if off:
    carry = model.forget(carry, jnp.ones(rows, bool))
  _, hidden = jax.lax.scan(one, carry, last)
  answers = hidden[0][:, task.asked]
  logp = model.apply(given, answers, method='log_probs')
  return logp.argmax(axis=-1) == batch.targets[:, task.asked]


def learned(name: str, memory: Memory, seed: int, minutes: float) -> dict:
  """One curriculum: what was learned, when, and how far it holds."""
  began = time.monotonic()
  learner = Learner(model_of(memory), seed)
  curve, stages, params = [], [], learner.params
  for gap in GAPS:
    enough = LAST if gap == GAPS[-1] else LEARNED
    found = learner.learn(gap, enough, began + 60 * minutes)
    curve += [(step, gap, accuracy) for step, accuracy in found]
    if max((accuracy for _, accuracy in found), default=0.0) < HELD:
      break
    seconds = time.monotonic() - began
    stages.append({'gap': gap, 'steps': found[-1][0], 'seconds': seconds})
    params = learner.params
    print(
      f'{name}, seed {seed}: gap {gap} after {found[-1][0]:,} steps, '
      f'{seconds:,.0f} s',
      flush=True,
    )
  learner.params = params
  by_gap = {str(gap): learner.accuracy(gap, seed=1) for gap in BEYOND}
  return {
    'memory': name,
    'seed': seed,
    'minutes': minutes,
    'patience': PATIENCE,
    'learned': LEARNED,
    'steps': learner.steps,
    'seconds': time.monotonic() - began,
    'stages': stages,
    'trained': stages[-1]['gap'] if stages else 0,
    'accuracy': by_gap,
    'off': learner.accuracy(1, seed=1, off=True),
    'curve': curve,
  }


def held(found: dict) -> int:
  """The longest gap, from the last learned on, with nine of ten right."""
  gaps = [gap for gap in BEYOND if gap >= found['trained']]
  good = itertools.takewhile(lambda gap: _at(found, gap) >= HELD, gaps)
  return max(good, default=0)


COLUMNS = (
  'memory',
  'seed',
  'trained gap',
  'holds at 90 %',
  'steps',
  'seconds',
  'memory off',
  *(f'gap {gap}' for gap in BEYOND),
)


def row(found: dict) -> tuple[str, ...]:
  return (
    found['memory'],
    str(found['seed']),
    str(found['trained']),
    str(held(found)),
    f'{found["steps"]:,}',
    f'{found["seconds"]:,.0f}',
    f'{found["off"]:.2f}',
    *(f'{_at(found, gap):.2f}' for gap in BEYOND),
  )


def pictured(found: list[dict], path: str) -> None:
  """Accuracy by gap, the median of seeds, a line a memory."""
  if not path:
    return
  matplotlib.use('Agg')
  figure = pyplot.figure(figsize=(8, 5), layout='constrained', dpi=150)
  axes = figure.add_subplot()
  for turn, name in enumerate(dict.fromkeys(x['memory'] for x in found)):
    runs = [x for x in found if x['memory'] == name]
    y = [np.median([_at(x, gap) for x in runs]) for gap in BEYOND]
    style = ('-', '--', ':')[turn // 7]
    axes.plot(BEYOND, y, style, color=f'C{turn % 7}', marker='.', label=name)
  axes.axhline(CHANCE, color='0.6', linewidth=1)
  axes.axvline(GAPS[-1], color='0.6', linewidth=1)
  axes.set_xscale('log', base=2)
  axes.set_xticks(BEYOND, map(str, BEYOND))
  axes.set(
    title='Values recalled by unseen keys (grey: chance, longest gap trained)',
    xlabel='segments from what is said to what is asked',
    ylabel='share of answers that are right, median of seeds',
  )
  axes.legend(
    frameon=False, fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5)
  )
  figure.savefig(path)
  print(f'wrote {path}')


def _at(found: dict, gap: int) -> float:
  return found['accuracy'][str(gap)]


def program() -> None:
  """The command line; its flags are defined only where it is the program."""
  every = memories(SIZE, cell=-1)  # behind the neighbours
  memory = flags.DEFINE_multi_enum(
    'memory', None, [*every], 'Which; none: all.'
  )
  seeds = flags.DEFINE_integer('seeds', 3, 'Runs of each.', lower_bound=1)
  minutes = flags.DEFINE_float('minutes', 30, 'The most of each run.')
  path = flags.DEFINE_string(
    'results', '', 'A file of runs, a line each; those in it are not run again.'
  )
  picture = flags.DEFINE_string('picture', '', 'A PNG to draw.')

  def main() -> None:
    logging.getLogger('lctx').setLevel(logging.WARNING)
    print(timing.heading(timing.machine()))
    rule = {'patience': PATIENCE, 'learned': LEARNED}
    found = timing.known(path.value, minutes=minutes.value, **rule)
    done = {(x['memory'], x['seed']) for x in found}
    for seed, name in itertools.product(
      range(seeds.value), memory.value or every
    ):
      if (name, seed) in done:
        continue
      found.append(learned(name, every[name], seed, minutes.value))
      print(timing.table(COLUMNS, [row(found[-1])]), flush=True)
      timing.append_json(found[-1], path.value)
    print(f'\n{timing.table(COLUMNS, [row(x) for x in found])}')
    pictured(found, picture.value)

  timing.run(main)


if __name__ == '__main__':
  program()
