"""The mesh of devices: how many along each axis."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType

AXES = ('data', 'fsdp', 'seq', 'tensor')


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Devices along each axis; -1, at most once, means all that are left.

  data: each device holds all parameters and some rows of the batch.
  fsdp: as data, and parameters and optimizer are split over these devices.
  seq, tensor: not yet; ValueError unless 1.
  """

  data: int = -1
  fsdp: int = 1
  seq: int = 1
  tensor: int = 1

  def __post_init__(self):
    for axis, what in (('seq', 'a sequence'), ('tensor', 'a layer')):
      if getattr(self, axis) != 1:
        raise ValueError(
          f'mesh.{axis} = {getattr(self, axis)} would split {what} over '
          f'devices, which comes later. Leave mesh.{axis} at 1; mesh.data and '
          'mesh.fsdp work now.'
        )
    for axis in ('data', 'fsdp'):
      size = getattr(self, axis)
      if size != -1 and size < 1:
        raise ValueError(
          f'mesh.{axis} = {size} must be a number of devices, at least 1, or '
          '-1 for all that are left.'
        )
    if self.data == self.fsdp == -1:
      raise ValueError(
        'mesh.data and mesh.fsdp are both -1, but only one axis can take all '
        'the devices that are left. Give the other a number.'
      )


def build(mesh: Mesh, devices: Sequence | None = None) -> jax.sharding.Mesh:
  """The mesh over these devices, by default all there are.

  Raises ValueError if the axes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = _sizes(mesh, len(devices))
  # make_mesh chooses Explicit axes unless told; Linen needs Auto.
  types = (AxisType.Auto,) * len(AXES)
  return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)


def _sizes(mesh: Mesh, count: int) -> tuple[int, ...]:
  sizes = [getattr(mesh, axis) for axis in AXES]
  given = math.prod(size for size in sizes if size != -1)
  if count % given or (-1 not in sizes and given != count):
    raise ValueError(_misfit(mesh, given, count))
  return tuple(count // given if size == -1 else size for size in sizes)


def _misfit(mesh: Mesh, given: int, count: int) -> str:
  multiple = 'a multiple of ' if -1 in (mesh.data, mesh.fsdp) else ''
  return (
    f'mesh.data = {mesh.data} and mesh.fsdp = {mesh.fsdp} ask for {multiple}'
    f'{given} devices, but there are {count}. The nearest that work: '
    f'{_nearest(mesh, count)}. To leave devices out, hide them from jax '
    '(CUDA_VISIBLE_DEVICES, TPU_VISIBLE_CHIPS).'
  )


def _nearest(mesh: Mesh, count: int) -> str:
  """The fitting pairs (data, fsdp) closest to what was asked."""
  pairs = [(count // n, n) for n in range(1, count + 1) if count % n == 0]

  def far(pair):
    asked = (mesh.data, mesh.fsdp)
    return sum(
      abs(math.log(size / want))
      for size, want in zip(pair, asked)
      if want != -1
    )

  nearest = sorted(pairs, key=far)[:2]
  return ' or '.join(f'mesh.data={d} mesh.fsdp={f}' for d, f in nearest)
