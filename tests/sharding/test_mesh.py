"""The mesh and its rules, on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from lctx.optimizer import Adam
from lctx.sharding import mesh as meshes
from lctx.sharding import rules
from lctx.sharding.mesh import Mesh

AXES = {
  'table': ('vocab', 'width'),
  'layers': {
    'in': ('layers', 'width', 'hidden'),
    'bias': ('layers', 'hidden'),
    'out': ('layers', 'hidden', 'width'),
    'norm': ('layers', 'width'),
  },
}
SIZES = {'vocab': 11, 'width': 8, 'hidden': 12, 'layers': 3}


def shape_of(names):
  return tuple(SIZES[name] for name in names)


def parameters():
  random = np.random.default_rng(0)
  return jax.tree.map(
    lambda names: jnp.asarray(random.normal(size=shape_of(names)), jnp.float32),
    AXES,
    is_leaf=lambda node: isinstance(node, tuple),
  )


@pytest.mark.parametrize(
  'mesh, sizes',
  [
    (Mesh(), (8, 1, 1, 1)),
    (Mesh(fsdp=4), (2, 4, 1, 1)),
    (Mesh(data=2, fsdp=-1), (2, 4, 1, 1)),
    (Mesh(data=4, fsdp=2), (4, 2, 1, 1)),
  ],
)
def test_one_axis_takes_the_devices_that_are_left(mesh, sizes):
  built = meshes.build(mesh)
  assert tuple(built.shape.values()) == sizes
  assert built.axis_names == ('data', 'fsdp', 'seq', 'tensor')
  assert set(built.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
  'make, words',
  [
    (lambda: Mesh(seq=2), ['mesh.seq = 2', 'mesh.data', 'later']),
    (lambda: Mesh(tensor=-1), ['mesh.tensor = -1', 'mesh.fsdp', 'later']),
    (lambda: Mesh(data=0), ['mesh.data = 0']),
    (lambda: Mesh(data=-1, fsdp=-1), ['mesh.data', 'mesh.fsdp', 'only one']),
    (
      lambda: meshes.build(Mesh(data=3)),
      ['mesh.data = 3', ' 3 devices', 'there are 8', 'mesh.data=4 mesh.fsdp=2'],
    ),
    (
      lambda: meshes.build(Mesh(fsdp=5)),
      ['mesh.fsdp = 5', 'multiple of 5', 'mesh.data=2 mesh.fsdp=4'],
    ),
    (
      lambda: meshes.build(Mesh(data=2, fsdp=8)),
      ['16 devices', 'there are 8', 'mesh.data=1 mesh.fsdp=8'],
    ),
    (
      lambda: rules.check_rows(6, meshes.build(Mesh(fsdp=2))),
      ['data.rows = 6', 'mesh.data * mesh.fsdp = 4 * 2 = 8', 'to 8'],
    ),
    (
      lambda: rules.check_rows(20, meshes.build(Mesh())),
      ['data.rows = 20', 'to 16 or 24'],
    ),
  ],
)
def test_a_mesh_that_cannot_be_says_what_can(make, words):
  with pytest.raises(ValueError) as error:
    make()
  for word in words:
    assert word in str(error.value)


def test_rows_that_divide_pass():
  rules.check_rows(24, meshes.build(Mesh(fsdp=2)))


def test_parameters_are_split_by_width_and_moments_lie_with_them():
  mesh = meshes.build(Mesh(fsdp=4))
  params = parameters()
  homes = rules.shardings(AXES, params, mesh)
  transform = Adam().transform(10, AXES)
  state = jax.eval_shape(transform.init, params)
  placed = jax.jit(
    transform.init, out_shardings=rules.follow(params, homes, state)
  )(jax.device_put(params, homes))
  adam = placed[1]
  assert adam.count.sharding.is_fully_replicated
  for tree in (jax.device_put(params, homes), adam.mu, adam.nu):
    pieces = jax.tree.map(lambda x: x.sharding.shard_shape(x.shape), tree)
    assert pieces['table'] == (11, 2)
    assert pieces['layers']['in'] == (3, 2, 12)
    assert pieces['layers']['bias'] == (3, 12)
    assert pieces['layers']['out'] == (3, 12, 2)
    assert pieces['layers']['norm'] == (3, 2)


def test_an_odd_dimension_alone_is_replicated_and_named(monkeypatch):
  lines = []
  monkeypatch.setattr(
    rules._log, 'warning', lambda line, *numbers: lines.append(line % numbers)
  )
  mesh = meshes.build(Mesh(data=2, fsdp=4))
  axes = {
    'odd': {'kernel': ('width', 'vector')},
    'even': ('batch', 'width'),
    'both': ('width', 'vector'),
  }
  shapes = {
    'odd': {'kernel': jnp.zeros((6, 8))},
    'even': jnp.zeros((16, 8)),
    'both': jnp.zeros((8, 6)),
  }
  got = jax.tree.map(lambda s: s.spec, rules.shardings(axes, shapes, mesh))
  assert got['odd']['kernel'] == PartitionSpec(None, 'fsdp')
  assert got['even'] == PartitionSpec(('data', 'fsdp'), None)
  assert got['both'] == PartitionSpec('fsdp', None)
  assert len(lines) == 1
  for word in ('odd/kernel', 'width = 6', '4 devices', 'mesh.fsdp'):
    assert word in lines[0]


def test_an_axis_that_is_in_no_table_is_refused():
  with pytest.raises(ValueError, match='widht'):
    rules.shardings(
      {'a': ('widht',)}, {'a': jnp.zeros(8)}, meshes.build(Mesh())
    )


def loss(params, batch_BV):
  x = batch_BV @ params['table']

  def layer(x, p):
    scale = p['norm'][None]
    hidden = jnp.tanh(x * scale @ p['in'] + p['bias'][None])
    return x + hidden @ p['out'], x

  x, carry = jax.lax.scan(layer, x, params['layers'])
  return (x**2).mean(), carry


def train(params, batch, steps=3):
  transform = Adam(peak=0.01, decay=0.1).transform(10, AXES)
  state = transform.init(params)
  for _ in range(steps):
    gradients, carry = jax.grad(loss, has_aux=True)(params, batch)
    updates, state = transform.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  return params, carry


def test_sharded_training_equals_unsharded(close):
  mesh = meshes.build(Mesh(fsdp=4))
  params = parameters()
  batch = jnp.asarray(np.random.default_rng(1).normal(size=(16, 11)), 'float32')
  want = jax.jit(train)(params, batch)

  homes = rules.shardings(AXES, params, mesh)
  sharded = jax.jit(train, out_shardings=(homes, rules.carry_sharding(mesh)))
  after, carry = sharded(
    jax.device_put(params, homes),
    jax.device_put(batch, rules.batch_sharding(mesh)),
  )
  assert carry.sharding.shard_shape(carry.shape) == (3, 2, 8)
  jax.tree.map(close, (after, carry), want)
