"""What is timed: sizes of models, their steps, and random text."""

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

import lctx
from lctx.evaluation.rows import Rows
from lctx.evaluation.score import AT_ONCE, Scorer
from lctx.models.text import Decoder
from lctx.optimizer import Optimizer
from lctx.sharding import mesh as meshes
from lctx.training.state import abstract_state, initial_state
from lctx.training.step import make_step
from lctx.types import Batch

VOCABULARY = 256  # where a config leaves it to the tokenizer: bytes


@dataclasses.dataclass(frozen=True)
class Case:
  """What is timed: a model, and the batch of one step.

  `published`: tokens/s of the published code in training and in evaluation.
  """

  name: str
  model: Decoder
  rows: int
  segment: int
  segments: int = 1
  train: lctx.Training = dataclasses.field(default_factory=lctx.Training)
  optimizer: Optimizer = dataclasses.field(
    default_factory=lambda: lctx.Adam(peak=1e-4)
  )
  published: tuple[float, float] | None = None

  @property
  def tokens(self) -> int:
    return self.rows * self.segment * self.segments


BASE = Case(
  '12 layers, width 512, T = M = 512, batch 4',
  lctx.presets.transformer_xl(12, 512, 8, 512, vocab=VOCABULARY),
  rows=4,
  segment=512,
  published=(190.0, 610.0),
)
SMALL = Case(
  '4 layers, width 128, T = M = 128, batch 16',
  lctx.presets.transformer_xl(4, 128, 4, 128, vocab=VOCABULARY),
  rows=16,
  segment=128,
  published=(4_600.0, 13_900.0),
)
QUICKSTART = dataclasses.replace(  # as configs/quickstart.py has it
  SMALL,
  name='quickstart (that, and memory dropped in 1/4 rows)',
  model=lctx.presets.transformer_xl(
    4, 128, 4, 128, memory_dropout=0.25, vocab=VOCABULARY
  ),
  published=None,
)


def from_config(config: lctx.Config) -> Case:
  """The model and the batches of a config; its text is not read."""
  size = config.model.embed.vocab or VOCABULARY
  return Case(
    'the config given',
    config.model.with_vocabulary(size),
    config.data.rows,
    config.data.segment,
    config.data.segments,
    config.train,
    config.optimizer,
  )


def train_step(case: Case) -> tuple[Callable[[], object], dict]:
  """One step of training, state and all; and what compiling it took."""
  model, mesh = case.model, meshes.build(lctx.Mesh(data=1), jax.devices()[:1])
  transform = case.optimizer.transform(case.train.steps, model.axes())
  averaged = bool(case.train.ema)
  abstract = abstract_state(model, transform, case.rows, mesh, averaged)
  batch = random_batch(case)
  step = make_step(model, transform, case.train, case.segment)
  compiled, about = compile_timed(lambda: step.lower(abstract, batch))
  held = [initial_state(model, transform, 0, case.rows, abstract)]

  def call():
    held[0], metrics = compiled(held[0], batch)
    return held[0].params, metrics

  return call, about


def evaluation(case: Case) -> tuple[Callable[[], object], int, dict]:
  """A reading the way eval.py does it, its tokens, and what compiling took."""
  params = jax.jit(case.model.init_params)(jax.random.key(0))
  scorer = Scorer(case.model, params, case.segment)
  rows = random_rows(case.rows, AT_ONCE * case.segment)
  _, about = compile_timed(lambda: scorer.lowered(rows))
  return lambda: [nats for _, nats in scorer([rows])], rows.tokens.size, about


def compile_timed(
  lower: Callable[[], jax.stages.Lowered],
) -> tuple[Callable, dict]:
  """What `lower` gives, compiled: seconds of both, MiB beside arguments."""
  began = time.perf_counter()
  compiled = lower().compile()
  seconds = time.perf_counter() - began
  memory = compiled.memory_analysis()
  mib = memory.temp_size_in_bytes / 2**20 if memory else None
  return compiled, {'compile_seconds': seconds, 'temporary_mib': mib}


def random_batch(case: Case) -> Batch:
  rows = random_rows(case.rows, case.segment * case.segments)
  return Batch(rows.tokens, rows.targets, rows.document, rows.weight)


def random_rows(rows: int, length: int) -> Rows:
  """Rows of one document each, of which every token counts."""
  random = np.random.default_rng(0)
  ids = random.integers(0, VOCABULARY, (rows, length + 1), np.int32)
  shape = (rows, length)
  return Rows(
    tokens=ids[:, :-1],
    targets=ids[:, 1:],
    document=np.zeros(shape, np.int32),
    weight=np.ones(shape, np.float32),
    distance=np.broadcast_to(np.arange(length, dtype=np.int32), shape),
    source=np.arange(rows, dtype=np.int32),
    other=None,
    opens=True,
  )
