"""Long-context language models in JAX and Flax.

A model reads one segment and carries what it remembers. This page is the
table of contents: train, evaluate and load a run; the config that makes one;
the parts of a config and of a model. Positions, patterns and memories, of which
there are many, have a page each, and published models have `presets`.
"""

from lctx import memory, patterns, positions, presets, published
from lctx.checkpoint import Checkpoints
from lctx.config import Config
from lctx.data import (
  ByBytes,
  ByDocument,
  ByName,
  Bytes,
  JsonLines,
  Lanes,
  Mixture,
  Published,
  PublishedBytes,
  SentencePiece,
  Stdlib,
  Text,
  Tfds,
  Words,
  long_texts,
  objectives,
)
from lctx.errors import UserError
from lctx.evaluation.score import Evaluation
from lctx.generation.memory_file import save_memory
from lctx.generation.reading import Remembered
from lctx.generation.sampling import Sampling
from lctx.loaded import Loaded, load_memory
from lctx.loading import load
from lctx.models.encoder_decoder import EncoderDecoder, Side
from lctx.models.heads import Heads
from lctx.models.parts import Compute, Dropout, Stack
from lctx.models.text import Decoder, Encoder
from lctx.models.vocabulary import Embedding
from lctx.optimizer import (
  Adafactor,
  Adam,
  Constant,
  Cosine,
  InverseSquareRoot,
  Linear,
  Lion,
  Muon,
)
from lctx.run import evaluate, train
from lctx.sharding.mesh import Mesh
from lctx.training.beginning import Beginning
from lctx.training.metrics import Logging
from lctx.training.step import Training

__all__ = [
  'Adafactor',
  'Adam',
  'Beginning',
  'ByBytes',
  'ByDocument',
  'ByName',
  'Bytes',
  'Checkpoints',
  'Compute',
  'Config',
  'Constant',
  'Cosine',
  'Decoder',
  'Dropout',
  'Embedding',
  'Encoder',
  'EncoderDecoder',
  'Evaluation',
  'Heads',
  'InverseSquareRoot',
  'JsonLines',
  'Lanes',
  'Linear',
  'Lion',
  'Loaded',
  'Logging',
  'Mesh',
  'Mixture',
  'Muon',
  'Published',
  'PublishedBytes',
  'Remembered',
  'Sampling',
  'SentencePiece',
  'Side',
  'Stack',
  'Stdlib',
  'Text',
  'Tfds',
  'Training',
  'UserError',
  'Words',
  'evaluate',
  'load',
  'load_memory',
  'long_texts',
  'memory',
  'objectives',
  'patterns',
  'positions',
  'presets',
  'published',
  'save_memory',
  'train',
]
