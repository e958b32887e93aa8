"""Optimizers: each rule against NumPy, and a stack against its layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lctx import optimizer as room
from lctx.optimizer import (
  Adafactor,
  Adam,
  Constant,
  Cosine,
  InverseSquareRoot,
  Linear,
  Lion,
  Muon,
  ema,
)

LAYERS = 3

AXES = {
  'table': ('vocab', 'width'),
  'projection': ('width', 'vector'),
  'clusters': ('clusters', 'width'),
  'vocab_bias': ('vocab',),
  'u': ('heads', 'head_width'),
  'scalar': (),
  'layers': {
    'query': ('layers', 'width', 'heads', 'head_width'),
    'out': ('layers', 'heads', 'head_width', 'width'),
    'u': ('layers', 'heads', 'head_width'),
    'in': ('layers', 'width', 'hidden'),
    'in_bias': ('layers', 'hidden'),
    'ffn_out': ('layers', 'hidden', 'width'),
    'norm': ('layers', 'width'),
    'relative': ('layers', 'distances', 'heads', 'head_width'),
    'relative_bias': ('layers', 'distances', 'heads'),
  },
}
MATRICES = {'projection', 'query', 'out', 'in', 'ffn_out'}
SIZES = {
  'layers': LAYERS,
  'width': 6,
  'heads': 2,
  'head_width': 4,
  'hidden': 10,
  'vocab': 11,
  'vector': 5,
  'clusters': 2,
  'distances': 7,
}
STEADY = {'schedule': Constant(), 'clip': 0.0}


def is_names(node):
  return isinstance(node, tuple)


def like(axes, seed):
  """Normal numbers in the shape that the axes tell."""
  random = np.random.default_rng(seed)

  def draw(names):
    shape = [SIZES[name] for name in names]
    return jnp.asarray(random.normal(size=shape), jnp.float32)

  return jax.tree.map(draw, axes, is_leaf=is_names)


def trainer(part, axes, steps=10):
  """A function of parameters and a list of gradients, one per update."""
  transform = part.transform(steps, axes)

  @jax.jit
  def train(params, gradients):
    state = transform.init(params)
    for gradient in gradients:
      updates, state = transform.update(gradient, state, params)
      params = optax.apply_updates(params, updates)
    return params

  return train


def trained(part, axes, params, gradients, steps=10):
  return trainer(part, axes, steps)(params, gradients)


def test_kernels_are_matrices_and_biases_norms_and_tables_are_not():
  found = jax.tree_util.tree_flatten_with_path(AXES, is_leaf=is_names)[0]
  matrices = {path[-1].key for path, names in found if room.is_matrix(names)}
  assert matrices == MATRICES


def test_sides_are_what_a_kernel_reads_and_what_it_writes():
  assert room.sides(AXES['layers']['query']) == ((1,), (2, 3))
  assert room.sides(AXES['layers']['out']) == ((1, 2), (3,))
  assert room.sides(AXES['layers']['u']) == ((1, 2),)
  with pytest.raises(ValueError, match='3 sides'):
    room.sides(('width', 'hidden', 'vector'))


@pytest.mark.parametrize('part', [Adam, Lion, Muon, Adafactor])
def test_decay_takes_its_share_of_matrices_and_of_nothing_else(part):
  params = like(AXES, 0)
  zero = jax.tree.map(jnp.zeros_like, params)
  part = part(peak=0.1, decay=0.5, **STEADY)
  after = trained(part, AXES, params, [zero])

  def check(path, names, old, new):
    kept = 0.95 if path[-1].key in MATRICES else 1.0
    np.testing.assert_allclose(new, kept * old, rtol=1e-6)

  jax.tree_util.tree_map_with_path(check, AXES, params, after, is_leaf=is_names)


@pytest.mark.parametrize('part', [Adam, Lion, Muon, Adafactor])
def test_a_stack_is_updated_as_each_layer_alone(part):
  part = part(peak=0.1, decay=0.1, **STEADY)
  axes = AXES['layers']
  alone = {key: names[1:] for key, names in axes.items()}
  params, gradients = like(axes, 0), [like(axes, 1), like(axes, 2)]
  # Layers of unequal size: statistics over the stack would show.
  sizes = jnp.asarray([1.0, 10.0, 100.0])
  gradients = [
    jax.tree.map(lambda g: jnp.einsum('l,l...->l...', sizes, g), g)
    for g in gradients
  ]
  together = trained(part, axes, params, gradients)
  train_one = trainer(part, alone)
  for i in range(LAYERS):
    layer = jax.tree.map(lambda x: x[i], (params, gradients))  # noqa: B023
    one = train_one(*layer)
    for key in axes:
      np.testing.assert_allclose(
        together[key][i], one[key], rtol=2e-5, atol=1e-6, err_msg=key
      )


def test_adam_with_decay_clipping_and_warm_up_is_its_equation(close):
  part = Adam(peak=0.1, schedule=Linear(warmup=2), decay=0.3, clip=0.25)
  params = like(AXES, 0)
  gradients = [like(AXES, seed) for seed in (1, 2, 3, 4)]
  after = trained(part, AXES, params, gradients, steps=6)

  flat, leaves = (
    jax.tree.flatten(params)[0],
    range(len(jax.tree.leaves(params))),
  )
  paths = jax.tree_util.tree_flatten_with_path(AXES, is_leaf=is_names)[0]
  decayed = [path[-1].key in MATRICES for path, _ in paths]
  want = [np.asarray(p, np.float64) for p in flat]
  m, v = [0.0] * len(want), [0.0] * len(want)
  for n, tree in enumerate(gradients):
    g = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    norm = np.sqrt(sum((x**2).sum() for x in g))
    g = [x * min(1.0, 0.25 / norm) for x in g]
    rate = 0.1 * [0.5, 1.0, 1.0, 0.75][n]
    for i in leaves:
      m[i] = 0.9 * m[i] + 0.1 * g[i]
      v[i] = 0.999 * v[i] + 0.001 * g[i] ** 2
      top, bottom = m[i] / (1 - 0.9 ** (n + 1)), v[i] / (1 - 0.999 ** (n + 1))
      step = top / (np.sqrt(bottom) + 1e-8) + 0.3 * decayed[i] * want[i]
      want[i] = want[i] - rate * step
  for got, expected in zip(jax.tree.leaves(after), want):
    close(got, expected)


def newton_schulz(x):
  """Five quintic steps on the smaller side, from a unit Frobenius norm."""
  wide = x if x.shape[0] <= x.shape[1] else x.T
  wide = wide / np.linalg.norm(wide)
  for _ in range(5):
    a = wide @ wide.T
    wide = 3.4445 * wide + (-4.7750 * a + 2.0315 * a @ a) @ wide
  return wide if x.shape[0] <= x.shape[1] else wide.T


def test_muon_makes_the_momentum_of_each_matrix_orthogonal(close):
  axes = {'query': AXES['layers']['query'], 'out': AXES['layers']['out']}
  part = Muon(peak=0.1, **STEADY)
  params, gradients = like(axes, 0), [like(axes, 1), like(axes, 2)]
  after = trained(part, axes, params, gradients)
  shape = {'query': (6, 8), 'out': (8, 6)}
  for key, layer in [(key, i) for key in axes for i in range(LAYERS)]:
    m, want = 0.0, np.asarray(params[key][layer], np.float64)
    for n, tree in enumerate(gradients):
      g = np.asarray(tree[key][layer], np.float64)
      m = 0.95 * m + 0.05 * g
      ahead = 0.95 * m / (1 - 0.95 ** (n + 2))
      ahead = ahead + 0.05 * g / (1 - 0.95 ** (n + 1))
      direction = newton_schulz(ahead.reshape(shape[key])).reshape(g.shape)
      want = want - 0.1 * 0.2 * np.sqrt(8) * direction
    close(after[key][layer], want, 1e-4)


def test_muon_leaves_tables_and_vectors_to_adam():
  params, gradients = like(AXES, 0), [like(AXES, 1), like(AXES, 2)]
  muon = trained(Muon(peak=0.1, **STEADY), AXES, params, gradients)
  adam = trained(Adam(peak=0.1, **STEADY), AXES, params, gradients)

  def check(path, names, a, b):
    same = bool(np.allclose(a, b, rtol=1e-6))
    assert same == (path[-1].key not in MATRICES), path

  jax.tree_util.tree_map_with_path(check, AXES, muon, adam, is_leaf=is_names)


def test_lion_steps_by_the_sign_of_its_blend():
  axes = {'norm': ('width',)}
  params, gradients = like(axes, 0), [like(axes, 1), like(axes, 2)]
  after = trained(Lion(peak=0.1, **STEADY), axes, params, gradients)
  first, second = (np.asarray(g['norm']) for g in gradients)
  blend = 0.9 * 0.01 * first + 0.1 * second
  want = params['norm'] - 0.1 * np.sign(first) - 0.1 * np.sign(blend)
  np.testing.assert_allclose(after['norm'], want, rtol=1e-6)


def test_adafactor_factors_a_kernel_as_the_matrix_it_multiplies_by(close):
  random = np.random.default_rng(0)
  axes = {'query': ('width', 'heads', 'head_width')}
  param, g = random.normal(size=(2, 130, 2, 65))
  single = {'query': jnp.asarray(param, jnp.float32)}
  gradient = {'query': jnp.asarray(g, jnp.float32)}
  after = trained(Adafactor(peak=0.1, **STEADY), axes, single, [gradient])

  square = g.reshape(130, 130) ** 2
  row, column = square.mean(1, keepdims=True), square.mean(0, keepdims=True)
  direction = g.reshape(130, 130) / np.sqrt(row * column / row.mean())
  direction /= max(1.0, np.sqrt((direction**2).mean()))
  direction *= np.sqrt((param**2).mean())
  close(after['query'], param - 0.1 * direction.reshape(g.shape))


def rates(schedule, steps, peak=1.0):
  rate = Adam(peak=peak, schedule=schedule).rate(steps)
  return [float(rate(step)) for step in range(steps)]


def test_schedules_are_their_equations():
  share = np.arange(6) / 6
  half_cosine = 0.1 + 0.9 * (1 + np.cos(np.pi * share)) / 2
  rising = [0.25, 0.5, 0.75, 1.0]
  for schedule, falling in [
    (Cosine(4, final=0.1), half_cosine),
    (Linear(4, final=0.4), 1 - 0.6 * share),
    (InverseSquareRoot(4), np.sqrt(4 / np.arange(5, 11))),
    (Constant(4), np.ones(6)),
  ]:
    np.testing.assert_allclose(
      rates(schedule, 10, peak=2.0), 2.0 * np.array([*rising, *falling]), 1e-5
    )


def test_an_unshifted_cosine_falls_from_the_first_step_as_published():
  got = rates(Cosine(warmup=3, shifted=False), 12)
  published = (1 + np.cos(np.pi * np.arange(12) / 12)) / 2
  np.testing.assert_allclose(got[3:], published[3:], rtol=1e-5)
  assert rates(Cosine(shifted=False), 12) == rates(Cosine(), 12)


def test_the_rate_that_is_logged_is_the_rate_that_acts():
  axes, params = {'norm': ('width',)}, {'norm': jnp.zeros(6)}
  part = Lion(peak=0.5, schedule=Cosine(warmup=2), clip=0.0)
  transform, rate = part.transform(8, axes), part.rate(8)
  state = transform.init(params)
  for step in range(8):
    updates, state = transform.update({'norm': jnp.ones(6)}, state, params)
    np.testing.assert_allclose(updates['norm'], -rate(step), rtol=1e-6)


def test_the_average_weighs_parameters_by_age_and_forgets_its_start():
  random = np.random.default_rng(0)
  values = random.normal(size=(50, 4)).astype(np.float32)
  average = {'x': jnp.full(4, 1e3)}
  want = np.full(4, 1e3)
  for step, value in enumerate(values):
    average = ema(average, {'x': jnp.asarray(value)}, 0.9, step)
    kept = min(0.9, (1 + step) / (10 + step))
    want = kept * want + (1 - kept) * value
  np.testing.assert_allclose(average['x'], want, rtol=1e-5)
  assert np.abs(average['x']).max() < 2.0


NAN = float('nan')


@pytest.mark.parametrize(
  'build, field',
  [
    (lambda: Adam(peak=NAN), 'optimizer.peak'),
    (lambda: Muon(peak=-1.0), 'optimizer.peak'),
    (lambda: Adam(peak=float('inf')), 'optimizer.peak'),
    (lambda: Adam(clip=NAN), 'optimizer.clip'),
    (lambda: Lion(decay=-0.1), 'optimizer.decay'),
    (lambda: Adam(b1=1.0), 'optimizer.b1'),
    (lambda: Lion(b2=NAN), 'optimizer.b2'),
    (lambda: Adam(eps=0.0), 'optimizer.eps'),
    (lambda: Adafactor(exponent=NAN), 'optimizer.exponent'),
    (lambda: Muon(momentum=NAN), 'optimizer.momentum'),
    (lambda: Muon(rms=0.0), 'optimizer.rms'),
    (lambda: Cosine(warmup=-1), 'optimizer.schedule.warmup'),
    (lambda: Linear(final=NAN), 'optimizer.schedule.final'),
    (lambda: Cosine(final=1.5), 'optimizer.schedule.final'),
    (lambda: Adam().rate(0), 'train.steps'),
  ],
)
def test_a_number_that_cannot_work_is_refused_by_the_name_of_its_field(
  build, field
):
  with pytest.raises(ValueError, match=field):
    build()
