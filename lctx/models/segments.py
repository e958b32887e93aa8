"""A long sequence is a scan of the step over its segments."""

from collections.abc import Callable
from typing import Any

import jax

from lctx.types import Carry


def split(tree: Any, segment: int) -> Any:
  """[B, S x segment, ...] leaves to [S, B, segment, ...], ready to scan."""

  def leaf(x):
    batch, length = x.shape[:2]
    x = x.reshape(batch, length // segment, segment, *x.shape[2:])
    return x.swapaxes(0, 1)

  return jax.tree.map(leaf, tree)


def merge(tree: Any) -> Any:
  """The way back: [S, B, segment, ...] to [B, S x segment, ...]."""
  return jax.tree.map(
    lambda x: x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:]), tree
  )


def scan_segments(
  step: Callable[[Carry, Any], tuple[Carry, Any]],
  carry: Carry,
  segments: Any,
  *,
  gradient_segments: int = 0,
  remat: bool = False,
) -> tuple[Carry, Any]:
  """Runs `step(carry, segment) -> (carry, out)` over axis 0 of `segments`.

  Gradients stop at every border (0, as Dai et al. 2019), or flow through
  `gradient_segments` k earlier segments at most: the sequence is cut into
  runs of k + 1 segments, between which nothing flows (truncated
  back-propagation). Compile time does not depend on the number of segments.

  Raises:
    ValueError: k + 1 does not divide the number of segments.
  """
  count, run = jax.tree.leaves(segments)[0].shape[0], gradient_segments + 1
  check_runs(count, gradient_segments)
  if remat:
    step = jax.checkpoint(step, prevent_cse=False)
  if run == 1:
    return jax.lax.scan(_detached(step), carry, segments)

  def one_run(carry, segments):
    return jax.lax.scan(step, carry, segments)

  if run == count:
    return _detached(one_run)(carry, segments)
  runs = jax.tree.map(
    lambda x: x.reshape(count // run, run, *x.shape[1:]), segments
  )
  carry, out = jax.lax.scan(_detached(one_run), carry, runs)
  return carry, jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), out)


def check_runs(count: int, gradient_segments: int) -> None:
  """Raises ValueError unless `count` segments make whole runs of k + 1."""
  run = gradient_segments + 1
  if gradient_segments < 0 or count % run:
    raise ValueError(
      f'train.gradient_segments = {gradient_segments} cuts a step into runs '
      f'of {run} segments, but data.segments = {count} is no multiple of '
      f'{run}. Change one of them.'
    )


def _detached(step):
  def detached(carry, segment):
    return step(jax.lax.stop_gradient(carry), segment)

  return detached
