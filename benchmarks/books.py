"""Does memory help on text? Each memory on novels that none was trained on.

python -m benchmarks.books --books=FOLDER --workdir=DIR [--model=NAME ...]
  [--steps=2000] [--seeds=1] [--results=FILE] [--picture=FILE] [--large]

FOLDER holds a text a book, and `index.tsv`, whose columns `file` and `split`
say which of them train (`train`) and which are read (all others). The same
small model, bytes in segments of 128, learns with one memory after another;
'none' is the twin without, and windows of 256 to 1,024 bytes have no memory
but a longer look. All see the same text once, an excerpt of every book that
trains, in shuffled order. --large is for a GPU: 100M parameters in bfloat16,
segments of 512 and windows of 1,024 to 4,096.

Then each reads the beginnings of the other books with its memory, and in
several other ways (`Way`), side by side. A memory's reach is how many segments
back attention looks directly; what retrieval searches does not count. To read
`n beyond` that reach is to take the memory away, or give it another book's, so
that it knows nothing of its own book from further back: what is lost is what
such text is worth. A memory helps where the text two segments beyond is worth
something, against none and against that of another book, and where it beats its
twin and the plain windows up to the first that costs as many operations a
token, trained from the same seed. These cannot be cut off from text, so they
are compared by place: by how much of the book came before, in stretches that
hold every window whole. Intervals resample books: they are those of the text,
not of another training; how much that moves, --seeds says.
"""

import dataclasses
import functools
import hashlib
import itertools
import logging
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import lctx
from benchmarks import books_report, timing
from benchmarks.memories import Size, memories, model_with
from lctx.memory import Compressive, Memory
from lctx.models.parts import Dropout
from lctx.models.text import Decoder
from lctx.training import flops
from lctx.types import Params, segment_coords

SMALL = Size(4, 128, 32, 128, slots=256, searched=2048, tokens=1024)
LARGE = Size(14, 768, 64, 512, 1024, 8192, 16_384, 6e-4, 'bfloat16')
WINDOWS = 2, 4, 8  # segments
TRAINED = 4  # segments that gradients flow through
READ = books_report.PLACES[-1]  # segments of each book
BEYOND = books_report.DISTANCES


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

  def counts(self, segments: int, first: int) -> np.ndarray:
    """Which segments; those before `first` have too little text before them."""
    number = np.arange(segments)
    return (number % self.period == self.period - 1) & (number >= first)


def first_of(size: Size) -> int:
  """The first segment that counts, in any way of any memory.

  The longest window begins there.
  """
  longest = max(WINDOWS)
  first = 2 * (size.slots // size.segment + max(BEYOND) + 1)
  return -(-first // longest) * longest


def ways(reach: int) -> tuple[Way, ...]:
  """For a memory whose attention looks `reach` segments back."""
  return (
    Way('swap', 1),
    Way('none', 1, forget=True),
    *(Way(f'{b} beyond', reach + b + 1) for b in BEYOND),
    *(Way(f'{b} beyond, forgotten', reach + b + 1, True) for b in BEYOND),
  )


def reach(memory: Memory, segment: int) -> int:
  """Segments before its own that attention looks at, as they were."""
  if isinstance(memory, Compressive):
    return memory.recent // segment  # behind that, states stand for several
  return memory.length // segment


def models(size: Size) -> list[str]:
  """Memories, and plain windows of so many bytes."""
  windows = [f'window {size.segment * many}' for many in WINDOWS]
  return [*memories(size), *windows]


def config_of(
  name: str, size: Size, corpus: Path, steps: int, seed: int
) -> lctx.Config:
  """Of a memory, or of a window of so many bytes."""
  window = int(name.split()[-1]) if name.startswith('window') else size.segment
  memory = memories(size).get(name, Memory())
  model = model_with(memory, size, None)
  carried = model.remembers
  length = max(window, TRAINED * size.segment)
  rows, segments = size.tokens // length, length // window
  return lctx.Config(
    model=dataclasses.replace(
      model,
      dropout=Dropout(memory=0.05 if carried else 0.0),
      stack=dataclasses.replace(model.stack, initializer_range=None),
    ),
    data=lctx.Lanes(
      lctx.Text(str(corpus), lctx.ByName()),
      *(lctx.Bytes(), rows, window, segments),
    ),
    optimizer=lctx.Adam(size.peak, lctx.Cosine(warmup=50), clip=1.0),
    train=lctx.Training(
      steps, gradient_segments=segments - 1 if carried else 0, eval_every=0
    ),
    eval=lctx.Evaluation(rows=8, tokens=20_000, compare=False),
    checkpoint=lctx.Checkpoints(every=100, keep_last=1),
    seed=seed,
  )


def shelves(
  books: Path, workdir: Path, size: Size, steps: int
) -> tuple[Path, np.ndarray]:
  """A folder of excerpts that train; the other books' beginnings, as bytes.

  The excerpts together are what `steps` read; two more are there to validate.
  Raises UserError where FOLDER is none of texts, or a book is too short.
  """
  index = books / 'index.tsv'
  lines = index.read_text('utf-8').splitlines() if index.is_file() else []
  head, *rows = [line.split('\t') for line in lines] or [[]]
  if not {'file', 'split'} <= {*head}:
    raise lctx.UserError(
      f'{index} is not there, or has no columns `file` and `split`. --books is '
      'a folder of texts, and these columns of its index.tsv say which train.'
    )
  split = {x[head.index('file')]: x[head.index('split')] for x in rows}
  train = [name for name in sorted(split) if split[name] == 'train']
  if len(train) < 3:
    raise lctx.UserError(
      f'{index} has {len(train)} books that train, and 3 are needed at least.'
    )
  length = -(-steps * size.tokens // (len(train) - 2))
  folder = workdir / f'train-{length}'
  folder.mkdir(parents=True, exist_ok=True)
  order = np.random.default_rng(0).permutation(train)
  names = ['valid.txt', 'test.txt', *(f'{i:03}.txt' for i in range(len(train)))]
  for name, book in zip(names, order):
    (folder / name).write_bytes(_excerpt(books / book, length))
  length = READ * size.segment
  others = [_beginning(books / x, length) for x in sorted({*split} - {*train})]
  return folder, np.stack(others)


def _excerpt(book: Path, length: int) -> bytes:
  """From a line in the middle of a book; less where it has less."""
  text = book.read_bytes()
  first = max(0, len(text) - length) // 2
  return text[first and text.find(b'\n', first) + 1 :][:length]


def _beginning(book: Path, length: int) -> np.ndarray:
  text = book.read_bytes()[:length]
  if len(text) < length:
    raise lctx.UserError(
      f'{book} has {len(text):,} bytes, and {length:,} are read of each book '
      'that does not train. Leave it out of index.tsv, or let it train.'
    )
  return np.frombuffer(text, np.uint8)


def read(
  model: Decoder, params: Params, ids: np.ndarray, segment: int, how: list[Way]
) -> np.ndarray:
  """Bits of every byte given those before it, [1 + ways, books, bytes].

  `ids` [books, 1 + bytes] begin with a start mark, and are read by segments.
  The first way is the memory's own.
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
  return np.asarray(nats).reshape(1 + len(how), books, -1) / np.log(2)


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


def measured(
  name: str, size: Size, workdir: Path, books: tuple, steps: int, seed: int
) -> dict:
  """One model trained, and bits per byte of every book by way of reading."""
  corpus, texts = books
  config = config_of(name, size, corpus, steps, seed)
  folder = workdir / f'{name}, seed {seed}'
  began = time.perf_counter()
  if lctx.train(config, folder) is None:
    raise lctx.UserError('Interrupted; the same command goes on.')
  seconds = time.perf_counter() - began
  loaded = lctx.load(folder, checkpoint='latest')
  ids = np.pad(texts.astype(np.int32), ((0, 0), (1, 0)))  # byte 0: a beginning
  model, segment = loaded.model, config.data.segment
  back = reach(model.memory, size.segment)
  how = ways(back) if model.remembers else ()
  bits = read(model, loaded.params, ids, segment, [*how])
  if not np.isfinite(bits).all():
    raise lctx.UserError(
      f'{name}, trained in {folder}, gives losses that are not finite, and '
      'what it remembers is worth nothing. Remove the folder to train it anew.'
    )
  bits = bits.reshape(*bits.shape[:2], -1, size.segment).mean(axis=3)
  first = first_of(size)
  found = {w.name: _counted(bits[i], w, first) for i, w in enumerate(how, 1)}
  reaches = range(size.slots // size.segment + 1)
  periods = sorted({way.period for far in reaches for way in ways(far)})
  own = {str(p): _counted(bits[0], Way('own', p), first) for p in periods}
  return {
    'model': name,
    'seed': seed,
    'reach': back,
    'steps': loaded.step,
    'seconds': seconds,
    'flops': flops.count(model, segment).forward,
    'own': own,
    'places': placed(bits[0]),
    'ways': {
      way.name: {'period': way.period, 'bits': found[way.name]} for way in how
    },
  }


def placed(bits: np.ndarray) -> dict[str, list[float]]:
  """Of each book, by the first segment of a stretch; [books, segments]."""
  stretches = itertools.pairwise(books_report.PLACES)
  return {str(i): _mean(bits[:, i:stop]) for i, stop in stretches}


def _counted(bits: np.ndarray, way: Way, first: int) -> list[float]:
  """Of each book, over the segments that count."""
  return _mean(bits[:, way.counts(bits.shape[1], first)])


def _mean(bits: np.ndarray) -> list[float]:
  """Of each book, given [books, segments]."""
  return [round(float(x), 5) for x in bits.mean(axis=1)]


def digest(corpus: Path, texts: np.ndarray) -> str:
  """Of what is learned and what is read."""
  found = hashlib.sha256(texts.tobytes())
  for path in sorted(corpus.iterdir()):
    found.update(path.read_bytes())
  return found.hexdigest()[:16]


def program() -> None:
  """The command line; its flags are defined only where it is the program."""
  every = [*dict.fromkeys([*models(SMALL), *models(LARGE)])]
  books = flags.DEFINE_string('books', None, 'Texts, and their index.tsv.')
  workdir = flags.DEFINE_string('workdir', None, 'For what is trained.')
  model = flags.DEFINE_multi_enum('model', None, every, 'Which; none: all.')
  steps = flags.DEFINE_integer('steps', 2000, 'Of each model.', lower_bound=1)
  seeds = flags.DEFINE_integer('seeds', 1, 'Trainings of each.', lower_bound=1)
  path = flags.DEFINE_string(
    'results', '', 'A file of models, a line each; those in it are not made.'
  )
  picture = flags.DEFINE_string('picture', '', 'A PNG to draw.')
  large = flags.DEFINE_bool('large', False, '100M parameters in bfloat16.')

  def main() -> None:
    size = LARGE if large.value else SMALL
    names = model.value or models(size)
    if unknown := {*names} - {*models(size)}:
      raise lctx.UserError(
        f'--model: {sorted(unknown)} belong to the other size. Here are '
        f'{", ".join(models(size))}.'
      )
    logging.getLogger('lctx').setLevel(logging.WARNING)
    print(timing.heading(timing.machine()))
    folder = Path(workdir.value)
    shelved = shelves(Path(books.value), folder, size, steps.value)
    same = {'steps': steps.value, 'width': size.width, 'beyond': str(BEYOND)}
    same |= {'text': digest(*shelved), 'first': first_of(size)}
    found = timing.known(path.value, **same)
    for seed, name in itertools.product(range(seeds.value), names):
      if (name, seed) in {(x['model'], x['seed']) for x in found}:
        continue
      print(f'\n{name}, seed {seed}', flush=True)
      made = measured(name, size, folder, shelved, steps.value, seed)
      found.append(made | same)
      timing.append_json(found[-1], path.value)
    print(f'\n{books_report.table(found)}')
    books_report.pictured(found, picture.value)

  timing.run(main, required=[books, workdir])


if __name__ == '__main__':
  program()
