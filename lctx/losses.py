"""From hidden states to log-probabilities, without [tokens, vocabulary].

`Output` describes a softmax over one vocabulary, or over bins of it: the
adaptive softmax of Grave et al. 2017, as Transformer-XL uses it. There the
head is a softmax over the first bin and one cluster for each other bin, and

  log p(w in bin i >= 1) = log head[cluster i] + log tail_i[w].

Every token's probability is exact and all shapes are static: each bin is
computed for every token and the right one is picked.
"""

import jax
import jax.numpy as jnp
from flax import struct

from lctx.types import Array

LOGITS_AT_ONCE = 2**20  # tokens x vocabulary of one chunk; 4 MiB in float32


@struct.dataclass
class Output:
  """What turns hidden states into log-probabilities; bin by bin."""

  tables: tuple[Array, ...]  # [V_i, E_i]
  biases: tuple[Array | None, ...]  # [V_i]
  projections: tuple[Array | None, ...]  # [D, E_i]; None = D is E_i
  clusters: tuple[Array, Array] | None  # [C, E_0], [C]; bin i in column C - i
  cap: float | None = struct.field(pytree_node=False, default=None)

  @property
  def vocabulary(self) -> int:
    return sum(table.shape[0] for table in self.tables)


def logits(output: Output, hidden_BTD: Array) -> Array:
  """What the softmax of a vocabulary of one bin is of, float32 [B, T, V].

  Raises ValueError where there are several.
  """
  if output.clusters is not None:
    raise ValueError(
      f'The vocabulary has {len(output.tables)} bins, each with a softmax of '
      'its own, so there are no logits of all. Use log_probs.'
    )
  (found,) = _all_logits(output, hidden_BTD)
  return found


def log_probs(output: Output, hidden_BTD: Array) -> Array:
  """The whole normalised distribution, float32 [B, T, V]."""
  head, tails = _bins(output, hidden_BTD)
  if not tails:
    return head
  shortlist, clusters = jnp.split(head, [output.tables[0].shape[0]], axis=-1)
  whole = [shortlist]
  for i, tail in enumerate(tails, start=1):
    column = clusters.shape[-1] - i
    whole.append(tail + clusters[..., column : column + 1])
  return jnp.concatenate(whole, axis=-1)


def nll(output: Output, hidden_BTD: Array, targets_BT: Array) -> Array:
  """Negative log-likelihood of each target: nats, float32 [B, T].

  Tokens go through in chunks, recomputed in the backward pass.
  """
  batch, length, width = hidden_BTD.shape
  tokens = batch * length
  chunk = max(64, LOGITS_AT_ONCE // output.vocabulary)
  if tokens <= chunk:
    return _nll(output, hidden_BTD, targets_BT)
  chunks = -(-tokens // chunk)
  padding = chunks * chunk - tokens
  hidden = jnp.pad(hidden_BTD.reshape(tokens, width), ((0, padding), (0, 0)))
  targets = jnp.pad(targets_BT.reshape(tokens), (0, padding))

  @jax.checkpoint
  def one(chunk_of):
    return _nll(output, chunk_of[0][None], chunk_of[1][None])[0]

  nats = jax.lax.map(
    one,
    (hidden.reshape(chunks, chunk, width), targets.reshape(chunks, chunk)),
  )
  return nats.reshape(-1)[:tokens].reshape(batch, length)


def _nll(output, hidden_BTD, targets_BT):
  head, tails = _bins(output, hidden_BTD)
  first = output.tables[0].shape[0]
  nats = -_pick(head, jnp.minimum(targets_BT, first - 1))
  start = first
  for i, tail in enumerate(tails, start=1):
    size = tail.shape[-1]
    inside = (targets_BT >= start) & (targets_BT < start + size)
    here = -_pick(tail, jnp.clip(targets_BT - start, 0, size - 1))
    nats = jnp.where(inside, here - head[..., head.shape[-1] - i], nats)
    start += size
  return nats


def _bins(output, hidden_BTD):
  """Log-probabilities of the head, and within each tail bin."""
  found = _all_logits(output, hidden_BTD)
  head, *tails = (jax.nn.log_softmax(x, axis=-1) for x in found)
  return head, tails


def _all_logits(output, hidden_BTD):
  """Of each bin; clusters stand behind the words of the first."""
  found = [
    _logits(hidden_BTD, table, bias, projection)
    for table, bias, projection in zip(
      output.tables, output.biases, output.projections, strict=True
    )
  ]
  if output.clusters is not None:
    extra = _logits(hidden_BTD, *output.clusters, output.projections[0])
    found[0] = jnp.concatenate([found[0], extra], axis=-1)
  if output.cap is None:
    return found
  return [output.cap * jnp.tanh(x / output.cap) for x in found]


def _logits(hidden_BTD, table_VE, bias_V, projection_DE):
  x, dtype = hidden_BTD, hidden_BTD.dtype
  if projection_DE is not None:
    x = jnp.einsum('btd,de->bte', x, projection_DE.astype(dtype))
  logits_BTV = jnp.einsum(
    'bte,ve->btv',
    x,
    table_VE.astype(dtype),
    preferred_element_type=jnp.float32,
  )
  return logits_BTV if bias_V is None else logits_BTV + bias_V[None, None]


def _pick(x_BTV, i_BT):
  return jnp.take_along_axis(x_BTV, i_BT[..., None], axis=-1)[..., 0]
