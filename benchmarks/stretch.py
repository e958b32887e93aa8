"""What it takes to read eight times as far: a real model of 512 tokens.

python -m benchmarks.stretch --stories=FOLDER --text=GLOB --workdir=DIR
  [--way=NAME ...] [--steps=200] [--results=FILE]

FOLDER holds llama2.c's stories260K, a model of 260,000 parameters that was
trained on 512 tokens of stories. It goes on learning on another text, whose
files are documents: at 512 tokens as it is, and at 4,096 with its positions as
they are, interpolated (PI), by another base (NTK-aware) or by parts (YaRN).
Each reads the beginnings of documents that were held out, in windows of 512
and of 4,096 tokens, before and after: nats of a token in each block of 256.
All learn as many tokens. Intervals resample documents.
"""

import dataclasses
import hashlib
import logging
import time
from pathlib import Path

import numpy as np
from absl import flags

import lctx
from benchmarks import books_report, timing
from benchmarks.books import read
from lctx import published
from lctx.interop import hugging_face, llama2c
from lctx.interop.llama2c_tokenizer import tokenizer_json
from lctx.memory import Memory
from lctx.positions import Linear, NtkAware, Plain, Yarn

SHORT, LONG, BLOCK = 512, 4096, 256
TOKENS = 8192  # of a step
FACTOR = LONG / SHORT
WAYS = {
  'at 512': (SHORT, Plain()),
  'as it is': (LONG, Plain()),
  'PI': (LONG, Linear(FACTOR)),
  'NTK-aware': (LONG, NtkAware(FACTOR)),
  'YaRN': (LONG, Yarn(FACTOR, SHORT)),
}
DOCUMENTS = 12  # held out ones that are read
ENDS = 256, 512, 1024, 2048, 4096  # of the stretches in the table


def folder_of(stories: str, workdir: Path) -> Path:
  """The model as a folder of Hugging Face's libraries, with its tokenizer."""
  home, folder = Path(stories), workdir / 'stories260K'
  given = llama2c.as_llama(*llama2c.load(home / 'stories260K.bin'))
  hugging_face.save(folder, *given, 'LlamaForCausalLM')
  (folder / 'tokenizer.json').write_text(tokenizer_json(home / 'tok512.bin'))
  return folder


def config_of(way: str, folder: Path, text: str, steps: int) -> lctx.Config:
  length, stretch = WAYS[way]
  config = published.find(folder).config
  position = dataclasses.replace(config.model.position, stretch=stretch)
  corpus = lctx.Text(text, lctx.ByDocument(valid=0.1, test=0.2))
  return dataclasses.replace(
    config,
    model=config.model.clone(position=position, memory=Memory()),
    data=lctx.Lanes(
      corpus,
      config.data.tokenizer,
      TOKENS // length,
      length,
      folder=str(folder),
    ),
    optimizer=lctx.Adam(5e-4, lctx.Cosine(warmup=20), clip=1.0),
    train=lctx.Training(steps, eval_every=0),
    eval=lctx.Evaluation(rows=4, tokens=20_000, compare=False),
    checkpoint=lctx.Checkpoints(every=50, keep_last=1),
  )


def held_out(config: lctx.Config, codec) -> np.ndarray:
  """The beginnings of test documents, behind the start mark."""
  rows = []
  for document in config.data.corpus.documents('test'):
    ids = next(iter(codec.stream([b''.join(document.blocks)[: 16 * LONG]])))
    if len(ids) >= LONG:
      rows.append([codec.start, *ids[:LONG]])
  if len(rows) < 2:
    raise lctx.UserError(
      f'--text has {len(rows)} held-out documents of {LONG:,} tokens, and at '
      'least 2 are read. Give it more and longer texts.'
    )
  return np.array(rows[:DOCUMENTS], np.int32)


def blocks_of(model, params, ids: np.ndarray, window: int) -> list[list[float]]:
  """Nats a token of every block of each document, read by windows."""
  (bits,) = read(model, params, ids, window, [])
  nats = bits.reshape(len(ids), -1, BLOCK).mean(axis=2) * np.log(2)
  return [[round(float(x), 5) for x in row] for row in nats]


def measured(way: str, folder: Path, workdir: Path, text: str, steps: int):
  """One way of reading far: before and after it learned."""
  config = config_of(way, folder, text, steps)
  loaded = lctx.load(folder)
  ids = held_out(config, loaded.codec)
  began, home = time.perf_counter(), workdir / way.replace(' ', '_')
  if lctx.train(config, home) is None:
    raise lctx.UserError('Interrupted; the same command goes on.')
  seconds = time.perf_counter() - began
  after = lctx.load(home, checkpoint='latest')
  model = config.model.with_vocabulary(loaded.model.embed.vocab)
  found = {'way': way, 'steps': after.step, 'text': digest(text)}
  found['seconds'] = seconds
  for name, params in (('before', loaded.params), ('after', after.params)):
    found[name] = {
      str(window): blocks_of(model, params, ids, window)
      for window in (SHORT, LONG)
    }
  return found


def digest(text: str) -> str:
  names = sorted(map(str, Path(text).parent.glob(Path(text).name)))
  contents = b''.join(Path(name).read_bytes() for name in names)
  return hashlib.sha256(contents).hexdigest()[:16]


def table(found: list[dict]) -> str:
  """Nats a token by place in a window of 4,096, and in windows of 512."""
  columns = ['', 'seconds', f'windows of {SHORT}']
  columns += [f'to {end:,}' for end in ENDS]
  rows = []
  for when in ('before', 'after'):
    for run in found:
      short, long = (np.array(run[when][str(x)]) for x in (SHORT, LONG))
      places, first = [], 0
      for end in ENDS:
        places.append(f'{long[:, first : end // BLOCK].mean():.3f}')
        first = end // BLOCK
      spent = run['seconds'] if when == 'after' else None
      rows.append(
        [f'{run["way"]}, {when}', spent, f'{short.mean():.3f}', *places]
      )
  return timing.table(columns, rows)


def gains(found: list[dict]) -> str:
  """What the last 2,048 tokens gain over windows of 512, with intervals."""
  plain = next((x for x in found if x['way'] == 'at 512'), None)
  if plain is None:
    return ''
  far = slice(LONG // 2 // BLOCK, None)
  theirs = np.array(plain['after'][str(SHORT)])[:, far].mean(axis=1)
  rows = []
  for run in found:
    ours = np.array(run['after'][str(LONG)])[:, far].mean(axis=1)
    rows.append([run['way'], books_report.gain(list(theirs), list(ours))])
  return timing.table(
    ['tokens 2,048 to 4,096, after', f'gain over windows of {SHORT}, nats'],
    rows,
  )


def program() -> None:
  """The command line; its flags are defined only where it is the program."""
  stories = flags.DEFINE_string('stories', None, "llama2.c's stories260K.")
  text = flags.DEFINE_string('text', None, 'Files of another text, a glob.')
  workdir = flags.DEFINE_string('workdir', None, 'For what is trained.')
  ways = flags.DEFINE_multi_enum('way', [*WAYS], [*WAYS], 'Which of them.')
  steps = flags.DEFINE_integer('steps', 200, 'Of each.', lower_bound=1)
  path = flags.DEFINE_string(
    'results', '', 'A file of runs, a line each; those in it are not made.'
  )

  def main() -> None:
    logging.getLogger('lctx').setLevel(logging.WARNING)
    print(timing.heading(timing.machine()))
    same = {'steps': steps.value, 'text': digest(text.value)}
    found = timing.known(path.value, **same)
    home = Path(workdir.value)
    folder = folder_of(stories.value, home)
    for way in ways.value:
      if way in {x['way'] for x in found}:
        continue
      print(f'\n{way}', flush=True)
      found.append(measured(way, folder, home, text.value, steps.value))
      timing.append_json(found[-1], path.value)
    print(f'\n{table(found)}\n\n{gains(found)}')

  timing.run(main, required=[stories, text, workdir])


if __name__ == '__main__':
  program()
