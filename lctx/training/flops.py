"""Floating-point operations of a model, counted on paper, and of devices.

A multiplication and an addition are two operations. Only matrix products
count: what remains (norms, softmax, elementwise) is a percent or two. A scan's
body is counted once by XLA whatever its length, so XLA cannot count for us.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.runs import Run
from lctx.models.text import Decoder
from lctx.models.vocabulary import Embedding
from lctx.patterns.base import Pattern, visible
from lctx.types import join, segment_coords

SAMPLED = 256  # queries whose keys are counted one by one

# Dense bfloat16 operations per second of one jax device, as published by the
# maker. The first entry whose words all occur in `device_kind` counts.
PEAK = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5p': 459e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'A100': 312e12,
  'H100 PCIe': 756e12,
  'H100 NVL': 835e12,
  'H200 NVL': 835e12,
  'H100': 989e12,
  'H200': 989e12,
  'B200': 2250e12,
}


@dataclasses.dataclass(frozen=True)
class Flops:
  """Operations per token of a forward pass, by what they are for.

  `reprojection`, of remembered states to keys and values, is work where hidden
  states are carried, which a cache of keys and values does not do (carrier =
  projected): it is no part of the model's.
  """

  projections: float
  attention: float
  relative: float
  ffn: float
  gates: float
  vocabulary: float
  memory: float
  reprojection: float

  @property
  def forward(self) -> float:
    """The model's, per token of inference."""
    layers = self.projections + self.attention + self.relative
    return layers + self.ffn + self.gates + self.vocabulary + self.memory

  @property
  def train(self) -> float:
    """The model's, per token of training: backward is twice forward."""
    return 3 * self.forward


def of_pairs(
  model: EncoderDecoder, segment: int, read: int, written: int
) -> Flops:
  """Operations per token that is read, `written` tokens for `read` of them.

  The encoder reads by segments, and predicts no words.
  """
  source, target = count(model.source, segment), count(model.target, written)
  sizes, share = model.target.sizes(), written / read
  heads = sizes.num_heads * sizes.head_width
  keys = 2 * 2 * sizes.width * sizes.key_heads * sizes.head_width
  cross = keys + share * (2 * 2 * sizes.width * heads + 2 * 2 * heads * read)
  found = {
    name: of_source + share * getattr(target, name)
    for name, of_source in dataclasses.asdict(source).items()
  }
  found['vocabulary'] = share * target.vocabulary
  found['attention'] += model.decoder.stack.depth * cross
  return Flops(**found)


def count(model: Decoder, segment: int, rows: int = 1) -> Flops:
  """Operations per token of a model that knows its vocabulary.

  Text is read segment by segment, with a memory that is full. `rows` share
  one projection of the distances.
  """
  runs = [_layers(model, run, segment, rows) for run in model.runs]
  total = jax.tree.map(lambda *parts: sum(parts), *runs)
  return Flops(**total, vocabulary=_vocabulary(model.embed))


def _layers(model: Decoder, run: Run, segment: int, rows: int) -> dict:
  """Of layers that remember alike, per token of text."""
  sizes, stack, memory = model.sizes(), model.stack, run.memory.length
  width, length = sizes.width, segment + sum(model.memory.around.counts)
  queries = 2 * width * sizes.num_heads * sizes.head_width
  keys = 2 * width * sizes.key_heads * sizes.head_width
  joined = queries * run.memory.heads(sizes.num_heads) / sizes.num_heads
  seen = 0.0
  if run.memory.attends:
    pattern = run.kind.pattern.of_length(segment)
    near, *_ = run.memory.patterns(pattern)
    seen = keys_seen(near, sizes.num_heads, length, memory)
  per_key = 2 * sizes.num_heads * sizes.head_width
  averages = model.heads.average(sizes) is not None  # of queries, one product
  remembered = 2 * keys + (queries if averages else 0)
  relative = 0.0
  if run.kind.position.meets_queries:
    relative += per_key * seen
  if run.kind.position.projects and run.memory.attends:
    relative += queries * (length + memory) / (length * rows)
  more = run.depth * length / segment  # tokens without ids are read too
  return {
    'projections': more * (queries + 2 * keys + joined),
    'attention': more * (3 if averages else 2) * per_key * seen,
    'relative': more * relative,
    'ffn': more * stack.ffn.matrices * 2 * width * stack.ffn_width_of(width),
    'gates': more * 2 * stack.gate.matrices * 2 * width * width,
    'memory': run.depth * run.memory.flops(sizes, segment),
    'reprojection': run.depth * remembered * memory / segment,
  }


def keys_seen(
  pattern: Pattern, num_heads: int, segment: int, memory: int
) -> float:
  """Keys that a query sees, on average; (T + 1) / 2 + M if causal.

  Memory is full, its document began with it, and no token has a role. Where a
  pattern leaves out some keys within its reach, `SAMPLED` queries, drawn from
  the segment, stand for all.
  """
  if not pattern.is_reach:
    return _keys_allowed(pattern, num_heads, segment, memory)
  query, last = memory + np.arange(segment), memory + segment - 1
  first, (before, after) = 0 * query, pattern.reach
  if before is not None:
    first = np.maximum(first, query - before)
  if after is not None:
    last = np.minimum(last, query + after)
  return float((last - first + 1).mean())


def _keys_allowed(
  pattern: Pattern, num_heads: int, segment: int, memory: int
) -> float:
  own = segment_coords(jnp.zeros((1, segment), jnp.int32))
  past = segment_coords(jnp.zeros((1, memory), jnp.int32), start=-memory)
  own = own.replace(offset=own.offset + memory)
  count = min(segment, SAMPLED)  # one of each stretch, at no regular distance
  places = np.arange(count) + np.random.default_rng(0).random(count)
  some = (places * segment / count).astype(np.int32)
  k_at = join(past, own).replace(start=None)
  seen = 0.0
  for few in np.array_split(some, -(-count // 64)):  # of memory, too
    q_at = jax.tree.map(lambda x, few=few: x[:, few], own).replace(start=None)
    shown = visible(pattern, q_at, k_at, jnp.arange(num_heads))
    seen += float(shown.sum(axis=-1).mean(axis=0).sum())
  return seen / count


def utilisation(
  flops_per_second: float, devices: Sequence[jax.Device]
) -> float | None:
  """The share of the devices' peak that is used; None if one has no known peak.

  A CPU has none.
  """
  peaks = [_peak(device.device_kind) for device in devices]
  if None in peaks:
    return None
  return flops_per_second / sum(peaks)


def _vocabulary(embed: Embedding) -> float:
  """Every bin is met by every token; clusters are rows of the first.

  Where bins have their own widths, matrices join them to the model's, on the
  way in and on the way out.
  """
  flops = 2.0 * len(embed.cutoffs) * embed.tables[0][1]
  for i, (start, end) in enumerate(embed.bins):
    vectors = embed.tables[i if len(embed.tables) > 1 else 0][1]
    flops += 2 * vectors * (end - start)
    if embed.projected:
      flops += 2 * 2 * embed.width * vectors
  return flops


def _peak(kind: str) -> float | None:
  for name, peak in PEAK.items():
    if set(name.split()) <= set(kind.replace('-', ' ').split()):
      return peak
  return None
