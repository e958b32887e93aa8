"""Does memory help on text? Each memory on novels that none was trained on.

python -m benchmarks.books --books=FOLDER --workdir=DIR [--model=NAME ...]
  [--steps=2000] [--results=FILE] [--picture=FILE]

FOLDER holds a text a book, and `index.tsv`, whose columns `file` and `split`
say which of them train (`train`) and which are read (all others). The same
small model, bytes in segments of 128, learns with one memory after another;
'none' is the twin without, and windows of 256 to 1,024 bytes have no memory
but a longer look. All see as many bytes of text.

Then each reads the beginnings of the other books with its memory, and in
several other ways (`Way`), side by side. What attention looks at directly is
its reach; a gain at a distance is what text of more than so many segments
beyond that reach brings. A memory helps where the text two segments beyond
brings something, against none and against that of another book, and where it
beats the plain window that costs as many operations a token, or more. Intervals
resample books.
"""

import dataclasses
import functools
import logging
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import lctx
from benchmarks import books_report, timing
from benchmarks.memories import memories, model_with
from lctx import command
from lctx.memory import Compressive, Memory, SinkCache, XLCache
from lctx.models.decoder import Decoder
from lctx.models.parts import Dropout
from lctx.training import flops
from lctx.types import Params, segment_coords

SEGMENT, SLOTS, DEPTH, WIDTH = 128, 256, 4, 128
WINDOWS = (256, 512, 1024)
TOKENS, PEAK = 1024, 3e-3  # of one step
TRAINED = 4  # segments that gradients flow through
READ = 128 * SEGMENT  # bytes of each book
BEYOND = (1, 2, 4, 8)  # segments beyond the reach


@dataclasses.dataclass(frozen=True)
class Way:
  """Reading with a memory that is changed before every `period`-th segment.

  Then it becomes what the reading of another book remembers at this moment, or
  nothing. Only the last segment of each period counts: what it remembers of its
  own book is the text of `period` - 1 segments.
  """

  name: str
  period: int
  forget: bool = False

  def counts(self, segments: int) -> np.ndarray:
    """Which segments; the first have too little text before them for any."""
    number = np.arange(segments)
    return (number % self.period == self.period - 1) & (number >= FIRST)


FIRST = 2 * (SLOTS // SEGMENT + max(BEYOND) + 1)


def ways(reach: int) -> tuple[Way, ...]:
  """For a memory whose attention looks `reach` segments back."""
  return (
    Way('swap', 1),
    Way('none', 1, forget=True),
    Way('2 beyond, forgotten', reach + 3, forget=True),
    *(Way(f'{b} beyond', reach + b + 1) for b in BEYOND),
  )


def reach(memory: Memory) -> int:
  """Segments before its own that attention looks at, as they were."""
  if isinstance(memory, (XLCache, SinkCache)):
    return memory.length // SEGMENT
  if isinstance(memory, Compressive):
    return memory.recent // SEGMENT
  values = (getattr(memory, f.name) for f in dataclasses.fields(memory))
  parts = [
    part
    for value in values
    for part in (value if isinstance(value, tuple) else (value,))
    if isinstance(part, Memory)
  ]
  return max(map(reach, parts), default=0)


def config_of(name: str, corpus: Path, steps: int) -> lctx.Config:
  """Of a memory, or of a window of so many bytes."""
  window = int(name.split()[-1]) if name.startswith('window') else SEGMENT
  memory = memories(SEGMENT, SLOTS).get(name, Memory())
  model = model_with(memory, DEPTH, WIDTH, None)
  carried = model.remembers
  length = max(window, TRAINED * SEGMENT)
  rows, segments = TOKENS // length, length // window
  return lctx.Config(
    model=dataclasses.replace(
      model,
      dropout=Dropout(memory=0.05 if carried else 0.0),
      stack=dataclasses.replace(model.stack, initializer_range=None),
    ),
    data=lctx.Lanes(
      lctx.Text(str(corpus)), lctx.Bytes(), rows, window, segments
    ),
    optimizer=lctx.Adam(PEAK, lctx.Cosine(warmup=50), clip=1.0),
    train=lctx.Training(
      steps, gradient_segments=segments - 1 if carried else 0, eval_every=0
    ),
    eval=lctx.Evaluation(rows=8, tokens=20_000, compare=False),
    checkpoint=lctx.Checkpoints(every=100, keep_last=1),
  )


def shelves(books: Path, workdir: Path) -> tuple[Path, np.ndarray]:
  """A folder of the books that train; the others' beginnings, [books, READ]."""
  index = books / 'index.tsv'
  lines = index.read_text('utf-8').splitlines() if index.is_file() else []
  head, *rows = [line.split('\t') for line in lines] or [[]]
  if not {'file', 'split'} <= {*head}:
    raise lctx.UserError(
      f'{index} is not there, or has no columns `file` and `split`. --books is '
      'a folder of texts, and these columns of its index.tsv say which train.'
    )
  split = {x[head.index('file')]: x[head.index('split')] for x in rows}
  folder = workdir / 'train'
  folder.mkdir(parents=True, exist_ok=True)
  others = []
  for name in sorted(split):
    if split[name] != 'train':
      others.append(_beginning(books / name))
    elif not (folder / name).exists():
      (folder / name).symlink_to((books / name).absolute())
  return folder, np.stack(others)


def _beginning(book: Path) -> np.ndarray:
  text = book.read_bytes()[:READ]
  if len(text) < READ:
    raise lctx.UserError(
      f'{book} has {len(text):,} bytes, and {READ:,} are read of each book '
      'that does not train. Leave it out of index.tsv, or let it train.'
    )
  return np.frombuffer(text, np.uint8)


def read(
  model: Decoder, params: Params, ids: np.ndarray, segment: int, how: list[Way]
) -> np.ndarray:
  """Bits of every segment of SEGMENT bytes, [1 + ways, books, segments].

  Mean bits of a byte, given those before it; `ids` [books, bytes] begin with a
  start mark. The first way is the memory's own.
  """
  books, length = ids.shape[0], ids.shape[1] - 1
  count, rows = length // segment, (1 + len(how)) * books
  own, here = np.arange(rows), np.arange(rows) % books
  turn = np.arange(count)[:, None]
  source = np.tile(own, (count, 1))
  forget = np.zeros((count, rows), bool)
  for i, way in enumerate(how, start=1):
    mine = slice(i * books, (i + 1) * books)
    begins = turn % way.period == 0
    forget[:, mine] = begins & way.forget
    lender = (here[mine] + 1) % books  # of the rows that read on unchanged
    source[:, mine] = np.where(begins & (not way.forget), lender, own[mine])
  nats = _nats(model.for_inference(), params, segment, ids, source, forget)
  bits = np.asarray(nats).reshape(1 + len(how), books, -1, SEGMENT)
  return bits.mean(axis=3) / np.log(2)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _nats(model, params, segment, ids, source, forget):
  """[rows, bytes]."""
  variables = {'params': params}
  times = source.shape[1] // ids.shape[0]

  def step(carry, inputs):
    tokens, targets, rows, gone = inputs
    carry = model.forget(model.exchange(carry, rows), gone)
    at = segment_coords(jnp.zeros(tokens.shape, jnp.int32))
    hidden, carry, _ = model.apply(variables, tokens, at, carry)
    return carry, model.apply(variables, hidden, targets, method='nll')

  def cut(x):
    return jnp.tile(x.reshape(len(x), -1, segment).swapaxes(0, 1), (times, 1))

  inputs = cut(ids[:, :-1]), cut(ids[:, 1:]), source, forget
  _, nats = jax.lax.scan(step, model.initial(source.shape[1]), inputs)
  return nats.swapaxes(0, 1).reshape(source.shape[1], -1)


def measured(name: str, workdir: Path, books: tuple, steps: int) -> dict:
  """One model trained, and bits per byte of every book by way of reading."""
  corpus, texts = books
  config, folder = config_of(name, corpus, steps), workdir / name
  began = time.perf_counter()
  if lctx.train(config, folder) is None:
    raise lctx.UserError('Interrupted; the same command goes on.')
  seconds = time.perf_counter() - began
  loaded = lctx.load(folder, checkpoint='latest')
  ids = np.pad(texts.astype(np.int32), ((0, 0), (1, 0)))  # byte 0: a beginning
  model, segment = loaded.model, config.data.segment
  back = reach(model.memory)
  how = ways(back) if model.remembers else ()
  bits = read(model, loaded.params, ids, segment, [*how])
  found = {way.name: _counted(bits[i], way) for i, way in enumerate(how, 1)}
  periods = sorted(
    {w.period for far in range(SLOTS // SEGMENT + 1) for w in ways(far)}
  )
  own = {str(p): _counted(bits[0], Way('own', p)) for p in periods}
  return {
    'model': name,
    'reach': back,
    'steps': loaded.step,
    'seconds': seconds,
    'flops': flops.count(model, segment).forward,
    'own': own,
    'ways': {
      way.name: {'period': way.period, 'bits': found[way.name]} for way in how
    },
  }


def _counted(bits: np.ndarray, way: Way) -> list[float]:
  """Of each book, over the segments that count."""
  kept = bits[:, way.counts(bits.shape[1])]
  return [round(float(x), 5) for x in kept.mean(axis=1)]


def program() -> None:
  """The command line; its flags are defined only where it is the program."""
  every = [*memories(SEGMENT, SLOTS), *(f'window {w}' for w in WINDOWS)]
  books = flags.DEFINE_string('books', None, 'Texts, and their index.tsv.')
  workdir = flags.DEFINE_string('workdir', None, 'For what is trained.')
  model = flags.DEFINE_multi_enum('model', None, every, 'Which; none: all.')
  steps = flags.DEFINE_integer('steps', 2000, 'Of each model.', lower_bound=1)
  path = flags.DEFINE_string(
    'results', '', 'A file of models, a line each; those in it are not made.'
  )
  picture = flags.DEFINE_string('picture', '', 'A PNG to draw.')

  def main(overrides: command.Overrides) -> None:
    if overrides:
      raise lctx.UserError('benchmarks.books takes no --config.NAME=VALUE.')
    logging.getLogger('lctx').setLevel(logging.WARNING)
    print(timing.heading(timing.machine()))
    folder = Path(workdir.value)
    shelved = shelves(Path(books.value), folder)
    found = timing.known(path.value)
    if other := {x['steps'] for x in found} - {steps.value}:
      raise lctx.UserError(
        f'{path.value} holds models of {sorted(other)} steps, and --steps = '
        f'{steps.value} makes others. Give another --results and --workdir.'
      )
    for name in model.value or every:
      if name in {x['model'] for x in found}:
        continue
      print(f'\n{name}', flush=True)
      found.append(measured(name, folder, shelved, steps.value))
      timing.append_json(found[-1], path.value)
    print(f'\n{books_report.table(found)}')
    books_report.pictured(found, picture.value)

  command.run(main, required=[books, workdir])


if __name__ == '__main__':
  program()
