"""Which token comes next: penalty, temperature and filters, in that order.

Every function takes float32 log-probabilities [B, V] and looks at a row alone.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from lctx.types import Array

COLDEST = 1e-4  # below, only 0 (greedy): quotients would leave float32


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a token is drawn. Each filter sees what the one before it left:

  1. `repetition_penalty` (Keskar et al. 2019, section 4.1): the log-probability
     of every token seen in the row, prompt included, is multiplied by it. That
     is their rule for scores that are never positive; on normalised scores it
     does not depend on an arbitrary shift of the logits. 1 is off.
  2. `temperature` divides what is left; 0 takes the most probable token, and
     of equals the first.
  3. `top_k` (Fan et al. 2018) keeps a token if fewer than k are more probable.
     0 is off.
  4. `top_p` (Holtzman et al. 2020) keeps a token if those more probable hold
     less than p together. 1 is off.
  5. `min_p` (Nguyen et al. 2024) keeps a token at least `min_p` times as
     probable as the first. 0 is off.

  Equal tokens are kept or dropped together, and the most probable one always
  stays.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  repetition_penalty: float = 1.0

  def __post_init__(self):
    needs = {
      'temperature': (
        self.temperature == 0 or COLDEST <= self.temperature < math.inf,
        f'0 (greedy) or a number from {COLDEST} up',
      ),
      'top_k': (
        isinstance(self.top_k, int) and self.top_k >= 0,
        'a whole number of tokens, or 0 to keep all',
      ),
      'top_p': (0 < self.top_p <= 1, 'above 0 and at most 1 (1 keeps all)'),
      'min_p': (0 <= self.min_p <= 1, 'from 0 (keeps all) to 1'),
      'repetition_penalty': (
        0 < self.repetition_penalty < math.inf,
        'above 0; 1 is off and 1.2 is usual',
      ),
    }
    for name, (holds, need) in needs.items():
      if not holds:
        raise ValueError(
          f'{name}={getattr(self, name)} cannot be sampled with: {name} must '
          f'be {need}.'
        )
    if self.temperature == 0 and self.filters:
      raise ValueError(
        'temperature=0 always takes the most probable token, so '
        f'{", ".join(self.filters)} would have no effect. Leave them out, or '
        'set a temperature above 0.'
      )

  @property
  def filters(self) -> tuple[str, ...]:
    """The filters that are on."""
    values = {'top_k': 0, 'top_p': 1, 'min_p': 0}
    return tuple(k for k, off in values.items() if getattr(self, k) != off)


def distribution(logp_BV: Array, seen_BV: Array, sampling: Sampling) -> Array:
  """Log-probabilities [B, V] after penalty, temperature and filters.

  Dropped tokens are at -inf; at temperature 0 all but one are.
  """
  logp_BV = penalise(logp_BV, seen_BV, sampling.repetition_penalty)
  if sampling.temperature == 0:
    first_BV = jax.nn.one_hot(logp_BV.argmax(-1), logp_BV.shape[-1], dtype=bool)
    return jnp.where(first_BV, 0.0, -jnp.inf)
  highest_B1 = logp_BV.max(axis=-1, keepdims=True)
  logp_BV = (logp_BV - highest_B1) / sampling.temperature
  if sampling.top_k:
    logp_BV = keep_top_k(logp_BV, sampling.top_k)
  if sampling.top_p < 1:
    logp_BV = keep_top_p(logp_BV, sampling.top_p)
  if sampling.min_p:
    logp_BV = keep_min_p(logp_BV, sampling.min_p)
  return jax.nn.log_softmax(logp_BV, axis=-1)


def sample(
  logp_BV: Array, seen_BV: Array, sampling: Sampling, keys_B: Array
) -> Array:
  """One token per row, int32 [B]."""
  logp_BV = distribution(logp_BV, seen_BV, sampling)
  if sampling.temperature == 0:
    return logp_BV.argmax(axis=-1).astype(jnp.int32)
  return jax.vmap(jax.random.categorical)(keys_B, logp_BV).astype(jnp.int32)


def row_keys(key: Array, num_rows: int, step: Array) -> Array:
  """Random keys [B]: each depends on (key, row, step) and nothing else."""

  def row_key(row):
    return jax.random.fold_in(jax.random.fold_in(key, row), step)

  return jax.vmap(row_key)(jnp.arange(num_rows))


def mark(seen_BV: Array, tokens_BT: Array, valid_BT: Array) -> Array:
  """`seen_BV` with the valid tokens of each row added."""
  rows_B1 = jnp.arange(tokens_BT.shape[0])[:, None]
  return seen_BV.at[rows_B1, tokens_BT].max(valid_BT)


def penalise(logp_BV: Array, seen_BV: Array, penalty: float) -> Array:
  """Multiplies the log-probability of tokens seen; not normalised."""
  return jnp.where(seen_BV, logp_BV * penalty, logp_BV)


def keep_top_k(logp_BV: Array, k: int) -> Array:
  k = min(k, logp_BV.shape[-1])
  lowest_B1 = jax.lax.top_k(logp_BV, k)[0][:, -1:]
  return jnp.where(logp_BV >= lowest_B1, logp_BV, -jnp.inf)


def keep_top_p(logp_BV: Array, p: float) -> Array:
  sorted_BV = jnp.sort(logp_BV, axis=-1, descending=True)
  prob_BV = jax.nn.softmax(sorted_BV, axis=-1)
  before_BV = jnp.cumsum(prob_BV, axis=-1) - prob_BV
  kept_BV = jnp.where(before_BV < p, sorted_BV, jnp.inf)
  lowest_B1 = kept_BV.min(axis=-1, keepdims=True)
  return jnp.where(logp_BV >= lowest_B1, logp_BV, -jnp.inf)


def keep_min_p(logp_BV: Array, min_p: float) -> Array:
  lowest_B1 = logp_BV.max(axis=-1, keepdims=True) + math.log(min_p)
  return jnp.where(logp_BV >= lowest_B1, logp_BV, -jnp.inf)
