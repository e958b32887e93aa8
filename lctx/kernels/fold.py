"""Sums over whole rows, for scores that need them before the first logit."""

import jax
import jax.numpy as jnp

from lctx.kernels.source import Source
from lctx.patterns.base import visible
from lctx.positions.base import Score
from lctx.types import EMPTY, Coords


def folded(
  sources: tuple[Source, ...], columns: int | None = None
) -> tuple[Source, ...]:
  """The sources with scores that know their sums over all visible keys.

  By blocks of `columns` keys; None = all at once. Scores that have such sums
  are the same, and at the same place, in all sources of a layer.
  """
  for i, score in enumerate(sources[0].scores):
    if score.folds:
      parts = [_sums(source, i, columns) for source in sources]
      known = score.folded(jax.tree.map(lambda *x: sum(x), *parts))
      sources = tuple(_with_score(source, i, known) for source in sources)
  return sources


def _with_score(source: Source, i: int, score: Score) -> Source:
  before, after = source.scores[:i], source.scores[i + 1 :]
  return source.replace(scores=(*before, score, *after))


def _sums(source: Source, i: int, columns: int | None):
  """Of score i, over the keys of one source."""

  def of_block(k_at):
    seen = visible(source.pattern, source.q_at, k_at, source.heads_N)
    return source.scores[i].fold(source.q_at, k_at, seen)

  if columns is None or columns >= source.k_at.length:
    return of_block(source.k_at)
  blocks = _blocks(source.k_at, columns)
  nothing = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(of_block, jax.tree.map(lambda x: x[0], blocks)),
  )

  def add(total, k_at):
    return jax.tree.map(jnp.add, total, of_block(k_at)), None

  return jax.lax.scan(add, nothing, blocks)[0]


def _blocks(at: Coords, columns: int) -> Coords:
  """[blocks, B, columns], the last filled up with empty slots."""
  more = -at.length % columns

  def cut(x, fill=0):
    x = jnp.pad(x, ((0, 0), (0, more)), constant_values=fill)
    return jnp.moveaxis(x.reshape(len(x), -1, columns), 1, 0)

  blocks = jax.tree.map(cut, at).replace(start=None)
  return blocks.replace(document=cut(at.document, EMPTY))
