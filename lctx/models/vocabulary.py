"""Tokens in and tokens out: dense or adaptive, tied or not.

Adaptive input: Baevski and Auli 2019. Bin i of the vocabulary, cut at
`cutoffs`, has vectors of width `embed_width // div_val**i`, projected to the
model's width. Names and ties follow the published Transformer-XL.
"""

import dataclasses
import itertools

import jax.numpy as jnp
from flax import linen as nn

from lctx.layers.norm import Norm
from lctx.layers.parameters import declare
from lctx.losses import Output
from lctx.types import TYPE

_small = nn.initializers.normal(stddev=0.01)  # `proj_init_std`


@dataclasses.dataclass(frozen=True)
class Embedding:
  """The vocabulary's part of a model.

  `vocab`: number of tokens; None = the tokenizer's. `tie_projections`: one
  flag per bin; the first bin's is never set in the published models. `scaled`:
  vectors times sqrt(width). `norm` is of vectors with what positions added to
  them (BERT, Bloom). `out_bias` is added to logits; `out_cap` bounds them
  softly (Gemma 2): c tanh(logit / c). `out_scale` multiplies states before they
  meet the vocabulary (T5). `types`: how many types tokens may have, each with a
  vector (BERT: of a pair, the first text and the second).
  """

  width: int
  vocab: int | None = None
  embed_width: int | None = None
  cutoffs: tuple[int, ...] = ()
  div_val: int = 1
  tie_weights: bool = True
  tie_projections: tuple[bool, ...] = ()
  scaled: bool = True
  norm: Norm | None = None
  out_bias: bool = True
  out_cap: float | None = None
  out_scale: float = 1.0
  types: int = 0

  def __post_init__(self):
    if self.out_cap is not None and self.out_cap <= 0:
      raise ValueError(
        f'model.embed.out_cap = {self.out_cap} bounds logits and must be above '
        '0. Use none for no bound.'
      )
    if self.types < 0 or not self.out_scale > 0:
      raise ValueError(
        f'model.embed.types = {self.types} counts types of tokens and must not '
        f'be negative; model.embed.out_scale = {self.out_scale} multiplies '
        'states and must be above 0. Without effect are 0 and 1.'
      )
    if self.width < 1:
      raise ValueError(f'model.embed.width = {self.width} must be at least 1.')
    if self.vocab is not None:
      self._check_cutoffs()
    if self.embed_width is not None and self.embed_width < 1:
      raise ValueError(
        f'model.embed.embed_width = {self.embed_width} must be at least 1, or '
        'none for the width of the model.'
      )
    if self.div_val < 1:
      raise ValueError(
        f'model.embed.div_val = {self.div_val} divides the width of each '
        'further bin and must be at least 1.'
      )
    if len(self.tie_projections) not in (0, len(self.cutoffs) + 1):
      raise ValueError(
        f'model.embed.tie_projections has {len(self.tie_projections)} flags '
        f'for the {len(self.cutoffs) + 1} bins that model.embed.cutoffs = '
        f'{self.cutoffs} makes. Give one flag per bin, or none at all.'
      )
    self._check_widths()

  def _check_cutoffs(self):
    ends = (*self.cutoffs, self.vocab)
    if any(a >= b for a, b in itertools.pairwise((0, *ends))):
      raise ValueError(
        f'model.embed.cutoffs = {self.cutoffs} must rise from above 0 to '
        f'below the vocabulary, model.embed.vocab = {self.vocab}. Remove the '
        'cutoffs past the vocabulary, or use a larger one.'
      )

  def _check_widths(self):
    narrowest = self._vectors // self.div_val ** len(self.cutoffs)
    if narrowest < 1:
      raise ValueError(
        f'model.embed.div_val = {self.div_val} leaves the last of '
        f'{len(self.cutoffs) + 1} bins no width: {self._vectors} // '
        f'{self.div_val}**{len(self.cutoffs)} = 0. Use a smaller div_val or '
        'fewer cutoffs.'
      )

  @property
  def _vectors(self) -> int:
    return self.width if self.embed_width is None else self.embed_width

  @property
  def bins(self) -> tuple[tuple[int, int], ...]:
    """First token and end of each bin."""
    return tuple(itertools.pairwise((0, *self.cutoffs, self.vocab)))

  @property
  def tables(self) -> tuple[tuple[int, int], ...]:
    """Shape of each table: with div_val 1 all bins share one."""
    if self.div_val == 1:
      return ((self.vocab, self._vectors),)
    return tuple(
      (end - start, self._vectors // self.div_val**i)
      for i, (start, end) in enumerate(self.bins)
    )

  @property
  def projected(self) -> bool:
    return self.div_val > 1 or self._vectors != self.width

  def projection_is_tied(self, i: int) -> bool:
    return bool(self.tie_projections) and self.tie_projections[i]


class Vocabulary(nn.Module):
  """The parameters of an `Embedding`: tokens to x, and the way back."""

  embed: Embedding
  dtype: jnp.dtype

  def setup(self):
    embed, param = self.embed, declare(self)
    width, zeros = embed.width, nn.initializers.zeros
    self.tables = tuple(
      param(f'table_{i}', shape, ('vocab', 'vector'))
      for i, shape in enumerate(embed.tables)
    )
    self.projections = tuple(
      param(f'projection_{i}', (width, e), ('width', 'vector'), _small)
      for i, (_, e) in enumerate(embed.tables)
      if embed.projected
    )
    self.biases = tuple(
      param(f'out_bias_{i}', (v,), ('vocab',), zeros)
      if embed.out_bias
      else None
      for i, (v, _) in enumerate(embed.tables)
    )
    self.out_tables = self._out_tables(param)
    self.out_projections = self._out_projections(param)
    self.clusters = self._clusters(param)
    if embed.types:
      shape = embed.types, width
      self.types = param('types', shape, ('types', 'width'))

  def _out_tables(self, param):
    if self.embed.tie_weights:
      return self.tables
    return tuple(
      param(f'out_table_{i}', shape, ('vocab', 'vector'))
      for i, shape in enumerate(self.embed.tables)
    )

  def _out_projections(self, param):
    embed, shared = self.embed, len(self.embed.tables) == 1
    if not embed.projected:
      return (None,) * len(embed.bins)
    tied = [self.projections[0 if shared else i] for i, _ in self._bins()]
    return tuple(
      tied[i]
      if embed.projection_is_tied(i)
      else param(
        f'out_projection_{i}', tied[i].shape, ('width', 'vector'), _small
      )
      for i, _ in self._bins()
    )

  def _clusters(self, param):
    count, vectors = len(self.embed.cutoffs), self.embed.tables[0][1]
    if not count:
      return None
    return (
      param('clusters', (count, vectors), ('clusters', 'vector')),
      param('cluster_bias', (count,), ('clusters',), nn.initializers.zeros),
    )

  def _bins(self):
    return tuple(enumerate(self.embed.bins))

  def __call__(self, tokens_BT, role_BT):
    """x [B, T, D] in the compute dtype."""
    x = self._words(tokens_BT)
    if not self.embed.types:
      return x
    type_BT = role_BT >> TYPE
    return x + jnp.take(self.types, type_BT, axis=0).astype(self.dtype)

  def _words(self, tokens_BT):
    if self.embed.div_val == 1:
      x = self._vectors(0, tokens_BT)
    else:
      x = 0
      for i, (start, end) in self._bins():
        inside = (tokens_BT >= start) & (tokens_BT < end)
        local = jnp.clip(tokens_BT - start, 0, end - start - 1)
        x += jnp.where(inside[..., None], self._vectors(i, local), 0)
    if not self.embed.scaled:
      return x
    return x * jnp.asarray(self.embed.width**0.5, self.dtype)

  def _vectors(self, i, ids_BT):
    vectors_BTE = jnp.take(self.tables[i], ids_BT, axis=0).astype(self.dtype)
    if not self.projections:
      return vectors_BTE
    projection_DE = self.projections[i].astype(self.dtype)
    return jnp.einsum('bte,de->btd', vectors_BTE, projection_DE)

  def met(self, hidden_BTD):
    """States as they meet the vocabulary."""
    if self.embed.out_scale == 1:
      return hidden_BTD
    return hidden_BTD * jnp.asarray(self.embed.out_scale, hidden_BTD.dtype)

  def output(self) -> Output:
    """What the loss needs, one entry a bin."""
    tables, biases = self.out_tables, self.biases
    if len(tables) == 1:
      tables = tuple(tables[0][a:b] for a, b in self.embed.bins)
      biases = tuple(
        None if biases[0] is None else biases[0][a:b]
        for a, b in self.embed.bins
      )
    return Output(
      tables, biases, self.out_projections, self.clusters, self.embed.out_cap
    )
