"""What each memory costs: training, decoding, and a stream of a million tokens.

python -m benchmarks.memory [--memory=NAME ...] [--rounds=5] [--stream=TOKENS]
  [--json=FILE] [--large]

One model, of four layers and width 128 (--large: of 100M parameters, for a
GPU, in bfloat16), with one memory after the other; the first is a
Transformer-XL cache of as many slots as the others have. Training is a step of
four segments in all rows, with gradients through all of them, timed in turns.
Decoding goes on, one row, from a text of twice as many tokens as slots, for one
segment and what closes it. The stream is read in one unbroken carry, segment by
segment; then 10,240 tokens are read in turns from the carry it had once buffers
were full, and from the one before its end. All are medians of as many rounds.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import lctx
from benchmarks import timing
from benchmarks.cases import VOCABULARY, Case, train_step
from benchmarks.memories import Size, memories, model_with
from lctx.generation import decode, reading
from lctx.generation.reading import Remembered
from lctx.models.text import Decoder
from lctx.training import flops
from lctx.types import segment_coords

SMALL = Size(4, 128, 32, 128, slots=512, searched=512, tokens=4096)
LARGE = Size(14, 768, 64, 512, 2048, 2048, 16_384, dtype='bfloat16')
SEGMENTS, BLOCK = 4, 10_240  # of a step; tokens of a stretch of the stream
COLUMNS = (
  'memory',
  'train tokens/s',
  'of xl',
  'MiB',
  'decode tokens/s',
  'of xl',
  'carry KiB',
  '10k of stream at first, s',
  'at last, s',
  'last / first',
)


def case_of(name: str, size: Size) -> Case:
  memory = memories(size)[name]
  model = model_with(memory, size, VOCABULARY)
  rows = size.tokens // (SEGMENTS * size.segment)
  train = lctx.Training(gradient_segments=SEGMENTS - 1)
  return Case(name, model, rows, size.segment, SEGMENTS, train)


def decoding(model: Decoder, params, size: Size) -> tuple:
  """A call that writes on after a text, and the bytes of what it carries."""
  random = np.random.default_rng(0)
  ids = random.integers(0, VOCABULARY, 2 * size.slots, np.int32)
  _, state = reading.read(model, params, [ids], size.segment)
  after = Remembered(state, len(ids), '', {})
  carried = sum(leaf.nbytes for leaf in jax.tree.leaves(state.carry))
  request = decode.Request(
    [np.zeros(0, np.int32)],
    size.segment,
    lctx.Sampling(temperature=0),
    after=after,
  )

  def call():
    return len([*decode.generate(model, params, request, size.segment)])

  return call, carried


def streamed(
  model: Decoder, params, size: Size, tokens: int, rounds: int
) -> tuple[float, float]:
  """Seconds of a BLOCK where a stream begins and where it ends, in one carry.

  It begins once every slot of the memory is full, and has two at least. The
  same one is read from both carries, in turns.
  """
  fast, segment = model.for_inference(), size.segment
  scores = jax.jit(fast.scores, static_argnums=1)(params, segment)
  random = np.random.default_rng(0)

  @jax.jit
  def read(carry, ids):
    def one(carry, tokens_T):
      at = segment_coords(jnp.zeros((1, segment), jnp.int32))
      given = {'params': params}, tokens_T[None], at, carry, scores
      hidden, carry, _ = fast.apply(*given)
      return carry, hidden.mean()

    return jax.lax.scan(one, carry, ids.reshape(-1, segment))

  after, carries = jax.tree.map(jnp.array, fast.initial(1)), {}
  full = -(-max(size.slots, segment) // BLOCK)
  for number in range(full + max(2, -(-tokens // BLOCK))):
    ids = random.integers(0, VOCABULARY, BLOCK, np.int32)
    carries['first' if number <= full else 'last'] = after
    after, means = read(after, ids)
    assert np.isfinite(means).all()
  calls = {k: functools.partial(read, x, ids) for k, x in carries.items()}
  took = timing.interleaved(calls, rounds)
  return took['first'].wall, took['last'].wall


def measured(
  names: list[str], size: Size, rounds: int, tokens: int
) -> list[dict]:
  cases = {name: case_of(name, size) for name in names}
  steps = {name: train_step(case) for name, case in cases.items()}
  trained = timing.interleaved({n: c for n, (c, _) in steps.items()}, rounds)
  params = {
    name: jax.jit(case.model.init_params)(jax.random.key(0))
    for name, case in cases.items()
  }
  writers = {n: decoding(c.model, params[n], size) for n, c in cases.items()}
  wrote = timing.interleaved({n: c for n, (c, _) in writers.items()}, rounds)
  found = []
  for name, case in cases.items():
    read = case.model, params[name], size, tokens, rounds
    first, last = streamed(*read) if tokens else (None, None)
    found.append(
      {
        'memory': name,
        'train_tokens_per_second': case.tokens / trained[name].wall,
        'decode_tokens_per_second': size.segment / wrote[name].wall,
        'temporary_mib': steps[name][1]['temporary_mib'],
        'compile_seconds': steps[name][1]['compile_seconds'],
        'carry_bytes': writers[name][1],
        'forward_flops': flops.count(case.model, size.segment).forward,
        'stream_seconds': (first, last),
      }
    )
    print(f'{name}: done', flush=True)
  return found


def table(found: list[dict]) -> str:
  first, rows = found[0], []
  for x in found:
    begun, ended = x['stream_seconds']
    rows.append(
      (
        x['memory'],
        x['train_tokens_per_second'],
        _share(x, first, 'train_tokens_per_second'),
        x['temporary_mib'],
        x['decode_tokens_per_second'],
        _share(x, first, 'decode_tokens_per_second'),
        x['carry_bytes'] / 1024,
        begun,
        ended,
        ended and ended / begun,
      )
    )
  return timing.table(COLUMNS, rows)


def _share(x: dict, first: dict, name: str) -> float:
  return x[name] / first[name]


def program() -> None:
  """The command line; its flags are defined only where it is the program."""
  every = memories(SMALL)
  memory = flags.DEFINE_multi_enum('memory', None, [*every], 'none: all.')
  rounds = flags.DEFINE_integer('rounds', 5, 'Turns.', lower_bound=1)
  stream = flags.DEFINE_integer('stream', 1_000_000, 'Tokens; 0: no stream.', 0)
  large = flags.DEFINE_bool('large', False, '100M parameters in bfloat16.')
  path = flags.DEFINE_string('json', '', 'A file for all that was found.')

  def main() -> None:
    names = ['xl', *itertools.filterfalse('xl'.__eq__, memory.value or every)]
    about = timing.machine()
    print(timing.heading(about))
    size = LARGE if large.value else SMALL
    found = measured(names, size, rounds.value, stream.value)
    print(f'\n{table(found)}')
    timing.save_json({'machine': about, 'found': found}, path.value)

  timing.run(main)


if __name__ == '__main__':
  program()
