"""Every layout of the vocabulary is one softmax, and never in one piece."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import tiny

from lctx import losses
from lctx.interop import transformer_xl as interop

VOCAB, WIDTH = 29, 16
LAYOUTS = [
  {
    'div_val': div_val,
    'tie_weights': tied,
    'embed_width': embed_width,
    'cutoffs': (7, 12, 20),
    'tie_projections': tie_projections,
  }
  for (div_val, embed_width), tied, tie_projections in itertools.product(
    ((1, None), (1, 12), (2, None), (2, 12), (4, 64)),
    (True, False),
    ((), (False, True, False, True)),
  )
] + [
  {'tie_weights': tied, 'embed_width': width}
  for tied, width in itertools.product((True, False), (None, 12))
]


def named(layout):
  return '-'.join(str(value).replace(' ', '') for value in layout.values())


def states(rows, length, seed=0):
  random = np.random.default_rng(seed)
  return jnp.asarray(random.standard_normal((rows, length, WIDTH)), jnp.float32)


def official(model):
  """The config of the published code, as far as the vocabulary goes."""
  embed = model.embed
  return {
    'n_token': embed.vocab,
    'd_model': embed.width,
    'd_embed': embed.embed_width,
    'div_val': embed.div_val,
    'cutoffs': list(embed.cutoffs),
  }


@pytest.mark.parametrize('layout', LAYOUTS, ids=named)
def test_every_layout_is_the_full_distribution_built_by_hand(layout, close):
  model = tiny.transformer_xl(depth=1, vocab=VOCAB, **layout)
  params, hidden = tiny.large_params(model), states(2, 15)
  targets = jnp.arange(30).reshape(2, 15) % VOCAB  # every token, in order

  @tiny.quick_jit
  def both(params, hidden):
    variables = {'params': params}
    return (
      model.apply(variables, hidden, method='log_probs'),
      model.apply(variables, hidden, targets, method='nll'),
    )

  log_probs, nll = both(params, hidden)
  arrays = interop.write(params, model)
  want = reference.adaptive_log_probs(
    arrays, official(model), np.float64(hidden)
  )
  close(log_probs, want)
  np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1, atol=1e-5)
  picked = np.take_along_axis(want, np.asarray(targets)[..., None], axis=-1)
  close(nll, -picked[..., 0])


def output(vocabulary=VOCAB, bins=3):
  """An adaptive output of narrowing bins, drawn at random."""
  random = np.random.default_rng(3)

  def normal(*shape):
    values = random.standard_normal(shape) / math.sqrt(shape[-1])
    return jnp.asarray(values, jnp.float32)

  sizes = [vocabulary // bins] * (bins - 1)
  sizes.append(vocabulary - sum(sizes))
  widths = [max(2, WIDTH // 2**i) for i in range(bins)]
  return losses.Output(
    tables=tuple(normal(v, e) for v, e in zip(sizes, widths)),
    biases=tuple(normal(v) for v in sizes),
    projections=tuple(normal(WIDTH, e) for e in widths),
    clusters=(normal(bins - 1, widths[0]), normal(bins - 1)),
  )


def test_logits_are_bounded_and_those_of_a_vocabulary_without_bins(close):
  hidden, bins = states(2, 5), output()
  whole = bins.replace(
    tables=bins.tables[:1],
    biases=(None,),
    projections=bins.projections[:1],
    clusters=None,
  )
  table, projection = map(np.float64, (whole.tables[0], whole.projections[0]))
  want = np.float64(hidden) @ projection @ table.T
  close(losses.logits(whole, hidden), want)
  capped = whole.replace(cap=0.5)
  close(losses.logits(capped, hidden), 0.5 * np.tanh(want / 0.5))
  expected = jax.nn.log_softmax(losses.logits(capped, hidden), axis=-1)
  close(losses.log_probs(capped, hidden), expected)
  with pytest.raises(ValueError, match='The vocabulary has 3 bins'):
    losses.logits(bins, hidden)


@pytest.mark.parametrize('rows, length', [(1, 65), (3, 43)])
def test_by_chunks_the_loss_and_its_gradients_are_the_same(
  rows, length, close, monkeypatch
):
  hidden, out = states(rows, length), output()
  random = np.random.default_rng(4)
  targets = jnp.asarray(random.integers(0, VOCAB, (rows, length)), jnp.int32)
  weights = jnp.asarray(random.standard_normal((rows, length)), jnp.float32)

  def loss(out, hidden):
    nats = losses.nll(out, hidden, targets)
    return (nats * weights).sum(), nats

  def compute():
    grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    return tiny.quick_jit(lambda *args: grad(*args))(out, hidden)

  whole = compute()
  monkeypatch.setattr(losses, 'LOGITS_AT_ONCE', 1)  # chunks of 64 tokens
  jax.tree.map(close, compute(), whole)


@pytest.mark.parametrize('bins', [1, 3])
def test_the_compiled_loss_never_holds_tokens_times_vocabulary(bins):
  vocabulary, rows, length = 1500, 4, 2048
  out, targets = output(vocabulary, bins), jnp.zeros((rows, length), jnp.int32)
  if bins == 1:
    out = out.replace(clusters=None)

  def loss(out, hidden):
    return losses.nll(out, hidden, targets).sum()

  grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  text = grad.lower(out, states(rows, length)).compile().as_text()
  sizes = [
    math.prod(int(n) for n in shape.split(','))
    for shape in re.findall(r'\b(?:f32|s32|pred)\[([\d,]+)\]', text)
  ]
  assert max(sizes) <= losses.LOGITS_AT_ONCE < rows * length * vocabulary / 8
