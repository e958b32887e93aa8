"""How much a longer Transformer-XL memory is worth: one model a length.

python -m benchmarks.lengths --text=FILE --workdir=DIR [--length=TOKENS ...]
  [--steps=3000] [--results=FILE]

The same small model learns the first 90 % of the text byte by byte, segments of
128, with one length of memory after the other; each reads the last 5 % with the
length it was trained with, and the one with the longest also with all others.
That one has met no shorter memory: with none it does worse than a model that
never had any. Bits per byte should fall from each length to the next (Bulatov
et al. 2022, tables 4 and 5: segments of 128, memory of 10 to 200). Intervals
(95 %) resample blocks of a KiB: they are those of the text, not of another
training.
"""

import dataclasses
import hashlib
import itertools
import logging
import time
from pathlib import Path

import numpy as np
from absl import flags

import lctx
from benchmarks import books_report, timing
from benchmarks.books import read
from lctx import presets

DEPTH, WIDTH, HEADS, SEGMENT, ROWS, PEAK = 4, 128, 4, 128, 8, 3e-3
TEXTS, BLOCK = 12, 8  # that are read side by side; segments of a block
COLUMNS = (
  *('memory', 'seconds', 'bits/byte', 'gain over the one before'),
  *('the longest, read with it', 'gain over the one before'),
)


def config_of(length: int, text: str, steps: int) -> lctx.Config:
  model = presets.transformer_xl(
    DEPTH, WIDTH, HEADS, length, memory_dropout=0.0, pre_norm=True
  )
  stack = dataclasses.replace(model.stack, initializer_range=None)
  return lctx.Config(
    model=dataclasses.replace(model, stack=stack),
    data=lctx.Lanes(lctx.Text(text), lctx.Bytes(), ROWS, SEGMENT),
    optimizer=lctx.Adam(PEAK, lctx.Cosine(warmup=50), clip=1.0),
    train=lctx.Training(steps, eval_every=0),
    eval=lctx.Evaluation(rows=8, tokens=20_000, compare=False),
    checkpoint=lctx.Checkpoints(every=100, keep_last=1),
  )


def held_out(text: str) -> np.ndarray:
  """Its last 5 %, in texts of whole blocks, behind a start mark."""
  pieces = lctx.Text(text).documents('test')
  found = b''.join(block for piece in pieces for block in piece.blocks)
  length = len(found) // (TEXTS * BLOCK * SEGMENT) * BLOCK * SEGMENT
  if length < 2 * BLOCK * SEGMENT:
    raise lctx.UserError(
      f'The last 5 % of {text} are {len(found):,} bytes, and '
      f'{2 * TEXTS * BLOCK * SEGMENT:,} are needed. Give a longer --text.'
    )
  cut = np.frombuffer(found, np.uint8)[: TEXTS * length].reshape(TEXTS, length)
  return np.pad(cut.astype(np.int32), ((0, 0), (1, 0)))


def blocks_of(loaded: lctx.Loaded, length: int, ids: np.ndarray) -> list[float]:
  """Bits per byte of every block but the first of each text."""
  model = lctx.Evaluation(memory=length).model(loaded.model)
  (bits,) = read(model, loaded.params, ids, SEGMENT, [])
  blocks = bits.reshape(TEXTS, -1, BLOCK * SEGMENT).mean(axis=2)
  return [round(float(x), 5) for x in blocks[:, 1:].ravel()]


def measured(
  text: str, workdir: Path, lengths: list[int], length: int, steps: int
) -> dict:
  """One model trained, and what each block costs it.

  The one of the longest memory also reads with all the other `lengths`.
  """
  config, folder = config_of(length, text, steps), workdir / str(length)
  began = time.perf_counter()
  if lctx.train(config, folder) is None:
    raise lctx.UserError('Interrupted; the same command goes on.')
  seconds = time.perf_counter() - began
  loaded, ids = lctx.load(folder, checkpoint='latest'), held_out(text)
  reads = lengths if length == max(lengths) else [length]
  return {
    'memory': length,
    'steps': loaded.step,
    'seconds': seconds,
    'text': digest(text),
    'bits': {str(x): blocks_of(loaded, x, ids) for x in reads},
  }


def digest(text: str) -> str:
  return hashlib.sha256(Path(text).read_bytes()).hexdigest()[:16]


def table(found: list[dict]) -> str:
  found = sorted(found, key=lambda x: x['memory'])
  names = [str(x['memory']) for x in found]
  own = [x['bits'][name] for name, x in zip(names, found, strict=True)]
  longest = [found[-1]['bits'].get(name) for name in names]
  columns = []
  for bits in (own, longest):
    columns.append([b and f'{np.mean(b):.4f}' for b in bits])
    pairs = itertools.pairwise(bits)
    gains = [a and b and books_report.gain(a, b) for a, b in pairs]
    columns.append([None, *gains])
  seconds = [x['seconds'] for x in found]
  return timing.table(COLUMNS, [*zip(names, seconds, *columns, strict=True)])


def program() -> None:
  """The command line; its flags are defined only where it is the program."""
  text = flags.DEFINE_string('text', None, 'A text of some megabytes.')
  workdir = flags.DEFINE_string('workdir', None, 'For what is trained.')
  lengths = flags.DEFINE_multi_integer(
    'length', [0, 50, 100, 150, 200], 'Of memory.', lower_bound=0
  )
  steps = flags.DEFINE_integer('steps', 3000, 'Of each model.', lower_bound=1)
  path = flags.DEFINE_string(
    'results', '', 'A file of models, a line each; those in it are not made.'
  )

  def main() -> None:
    logging.getLogger('lctx').setLevel(logging.WARNING)
    print(timing.heading(timing.machine()))
    same = {'steps': steps.value, 'text': digest(text.value)}
    found = timing.known(path.value, **same)
    for length in lengths.value:
      if length in {x['memory'] for x in found}:
        continue
      print(f'\nmemory {length}', flush=True)
      given = text.value, Path(workdir.value), lengths.value
      found.append(measured(*given, length, steps.value))
      timing.append_json(found[-1], path.value)
    print(f'\n{table(found)}')

  timing.run(main, required=[text, workdir])


if __name__ == '__main__':
  program()
