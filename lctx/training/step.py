"""One training step: a batch in, an update and the carried memory out."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lctx.models.encoder_decoder import EncoderDecoder
from lctx.models.segments import scan_segments, split
from lctx.models.spans import clamped
from lctx.models.text import Decoder, Encoder
from lctx.optimizer import ema
from lctx.training.state import State
from lctx.types import Array, Batch


@dataclasses.dataclass(frozen=True)
class Training:
  """How long a model is trained, and what a step is.

  `gradient_segments`: earlier segments that gradients reach (0: none, as Dai
  et al. 2019). `accumulate`: parts a batch is computed in, one after another.
  `ema`: decay of the averaged parameters that are evaluated (0: no average).
  `eval_every`: steps between validations (0: only at the end), of at most
  `valid_tokens` each (none: the whole split). `patience`: validations without
  a better metric before the run ends (0: never). `max_skipped`: steps in a
  row without a finite loss and gradient before the run gives up.
  """

  steps: int = 1000
  gradient_segments: int = 0
  accumulate: int = 1
  ema: float = 0.0
  eval_every: int = 1000
  valid_tokens: int | None = 200_000
  patience: int = 0
  max_skipped: int = 20

  def __post_init__(self):
    least = {'steps': 1, 'accumulate': 1, 'max_skipped': 1}
    for name in ('gradient_segments', 'eval_every', 'patience', *least):
      if getattr(self, name) < least.get(name, 0):
        raise ValueError(
          f'train.{name} = {getattr(self, name)} must be at least '
          f'{least.get(name, 0)}.'
        )
    if not 0 <= self.ema < 1:
      raise ValueError(
        f'train.ema = {self.ema} is a decay and must be at least 0 (no '
        'average) and below 1.'
      )
    if self.valid_tokens is not None and self.valid_tokens < 1:
      raise ValueError(
        f'train.valid_tokens = {self.valid_tokens} must be at least 1, or none '
        'for the whole split.'
      )
    if self.patience and not self.eval_every:
      raise ValueError(
        f'train.patience = {self.patience} counts validations, but '
        'train.eval_every = 0 makes none before the end. Set eval_every too.'
      )


Step = Callable[[State, Batch], tuple[State, dict[str, Array]]]


def make_step(
  model: Decoder | Encoder | EncoderDecoder,
  transform: optax.GradientTransformation,
  settings: Training,
  segment: int,
) -> Step:
  """The compiled step. `state` is donated; metrics stay on the device.

  A step whose loss or gradient is not finite changes no parameter: it is
  counted, and every lane begins again with an empty memory.
  """

  def step(state: State, batch: Batch):
    key = jax.random.fold_in(state.key, state.step)
    of = _PairLoss if isinstance(model, EncoderDecoder) else _Loss
    loss = of(model, settings, segment, batch.weight.sum())
    nats, penalty, grads, carry = _accumulated(
      loss, settings.accumulate, state, batch, key
    )
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(nats) & jnp.isfinite(norm)
    updates, moments = transform.update(grads, state.moments, state.params)
    params = clamped(model, optax.apply_updates(state.params, updates))
    average = state.average
    if average is not None:
      average = ema(average, params, settings.ema, state.updates)
    new = state.replace(
      params=params,
      average=average,
      moments=moments,
      carry=carry,
      updates=state.updates + 1,
      skipped=jnp.zeros_like(state.skipped),
    )
    empty = model.initial(batch.tokens.shape[0])
    old = state.replace(carry=empty, skipped=state.skipped + 1)
    new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    new = new.replace(step=state.step + 1)
    return new, {'loss': nats, 'penalty': penalty, 'gradient_norm': norm}

  return jax.jit(step, donate_argnums=0)


@dataclasses.dataclass(frozen=True)
class _Loss:
  """Mean nats per token over some rows of a batch, as part of the whole."""

  model: Decoder | Encoder
  settings: Training
  segment: int
  total: Array  # tokens that count in the whole batch

  def __call__(self, params, carry, batch: Batch, key):
    rows, length = batch.tokens.shape
    count = length // self.segment
    drop_key, forget_key = jax.random.split(key)
    share = self.model.dropout.memory
    forget_SB = jax.random.bernoulli(forget_key, share, (count, rows))
    segments = (
      split(batch, self.segment),
      jax.random.split(drop_key, count),
      forget_SB,
    )
    carry, (nats_S, penalty_S) = scan_segments(
      lambda carry, inputs: self._segment(params, carry, *inputs),
      carry,
      segments,
      gradient_segments=self.settings.gradient_segments,
      remat=self.model.compute.remat_segments,
    )
    nats = nats_S.sum() / jnp.maximum(self.total, 1)
    penalty = penalty_S.mean()
    return nats + penalty, (nats, penalty, carry)

  def _segment(self, params, carry, batch, key, forget_B):
    model, variables = self.model, {'params': params}
    if model.dropout.memory:
      carry = model.forget(carry, forget_B)
    hidden, carry, penalty = model.apply(
      variables, batch.tokens, batch.coords, carry, rngs=_dropout(model, key)
    )
    nll = model.apply(variables, hidden, batch.targets, method='nll')
    return carry, ((nll * batch.weight).sum(), penalty)


@dataclasses.dataclass(frozen=True)
class _PairLoss:
  """The same of an encoder-decoder, which carries nothing to the next step."""

  model: EncoderDecoder
  settings: Training
  segment: int
  total: Array

  def __call__(self, params, carry, batch: Batch, key):
    model, settings = self.model, self.settings
    nll, penalty = model.nll(
      params,
      batch,
      key=key if _dropout(model, key) else None,
      segment=self.segment,
      gradient_segments=settings.gradient_segments,
    )
    nats = (nll * batch.weight).sum() / jnp.maximum(self.total, 1)
    return nats + penalty, (nats, penalty, carry)


def _dropout(model, key):
  rates = model.dropout
  return {'dropout': key} if rates.hidden or rates.attention else {}


def _accumulated(loss, parts, state, batch, key):
  """Loss, penalty, gradients and carry, computed in parts of the rows.

  Every part takes rows from all over the batch, so that it is spread over
  the devices as the batch is.
  """
  grad = jax.value_and_grad(loss, has_aux=True)
  if parts == 1:
    (_, (nats, penalty, carry)), grads = grad(
      state.params, state.carry, batch, key
    )
    return nats, penalty, grads, carry

  def cut(x, axis):
    shape = (*x.shape[:axis], -1, parts, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis + 1, 0)

  def joined(x, axis):
    x = jnp.moveaxis(x, 0, axis + 1)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

  def one(total, inputs):
    carry, batch, key = inputs
    (_, (nats, penalty, carry)), grads = grad(state.params, carry, batch, key)
    penalty = penalty / parts
    return jax.tree.map(jnp.add, total, (nats, penalty, grads)), carry

  zero = jnp.zeros((), jnp.float32)
  total = (zero, zero, jax.tree.map(jnp.zeros_like, state.params))
  inputs = (
    jax.tree.map(lambda x: cut(x, 1), state.carry),
    jax.tree.map(lambda x: cut(x, 0), batch),
    jax.random.split(key, parts),
  )
  (nats, penalty, grads), carry = jax.lax.scan(one, total, inputs)
  carry = jax.tree.map(lambda x: joined(x, 1), carry)
  return nats, penalty, grads, carry
