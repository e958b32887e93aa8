"""Reading texts of any length into open segments: a chunked prefill.

A row's tokens join its open segment, which is written to memory when it is
full: at the borders of training, counted from the row's own beginning. So a
row reads what it would read alone, whatever stands beside it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lctx.errors import UserError
from lctx.generation.sampling import mark
from lctx.models.cross import Context
from lctx.models.text import Decoder
from lctx.positions.base import Score
from lctx.types import EMPTY, Array, Carry, Coords, Params, segment_coords


@struct.dataclass
class Reader:
  """What stays the same from token to token."""

  model: Decoder = struct.field(pytree_node=False)
  params: Params
  scores: Score


@struct.dataclass
class State:
  """What goes on from token to token. Its size never grows."""

  carry: Carry
  hidden_BD: Array  # at the last token read of each row
  seen_BV: Array  # the tokens that occur in each row so far
  stopped_B: Array
  step: Array  # new tokens so far


@dataclasses.dataclass(frozen=True, eq=False)
class Remembered:
  """A text as a model remembers it, of a size that does not grow with it.

  Nothing changes it: go on from one as often as you like, and each way is a
  branch of its own. `maker` names the model and the tokenizer.
  """

  state: State  # of one row
  tokens: int  # read so far, the start mark included
  text_hash: str  # of their ids, however they were cut
  maker: dict[str, str]

  @property
  def num_bytes(self) -> int:
    """Of all arrays: what a file of it holds, but for their names."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))

  def rows(self, count: int) -> State:
    """A copy in each of `count` rows, none of which has written a token."""
    first = jnp.zeros(count, jnp.int32)
    carry = jax.tree.map(lambda x: x[:, first], self.state.carry)
    return State(
      carry=carry,
      hidden_BD=self.state.hidden_BD[first],
      seen_BV=self.state.seen_BV[first],
      stopped_B=jnp.zeros(count, bool),
      step=jnp.zeros((), jnp.int32),
    )


def begin(
  model: Decoder,
  params: Params,
  num_rows: int,
  segment: int,
  after: Remembered | None = None,
  context: Context | None = None,
) -> tuple[Reader, State]:
  """A reader, and the state of rows that have read nothing, or go on `after`
  what was read. `context` is what cross-attention looks at."""
  fast = model.for_inference().for_decoding()
  reader = Reader(fast, params, _scores(fast, params, segment))
  if after is not None:
    return reader, after.rows(num_rows)
  return reader, unread(reader, num_rows, segment, context)


def read(
  model: Decoder,
  params: Params,
  prompts: list[np.ndarray],
  segment: int,
  after: Remembered | None = None,
  told: Callable[[int, State], object] = lambda tokens, state: None,
  context: Context | None = None,
) -> tuple[Reader, State]:
  """The state after prompts of any lengths, each `after` what was read.

  Of every piece, `told` gets the tokens of the longest prompt in it, and the
  state after it.
  """
  reader, state = begin(model, params, len(prompts), segment, after, context)
  width = piece_width(prompts, segment)
  for piece in pieces(prompts, segment, width, filled_of(after, segment)):
    _, state = read_piece(reader, state, piece)
    told(int((piece.document_BT >= 0).any(axis=0).sum()), state)
  return reader, state


def check_finite(state: State) -> None:
  """Raises UserError where what is remembered is not finite."""
  leaves = jax.tree.leaves(state)
  numbers = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
  if not all(bool(jnp.isfinite(x).all()) for x in numbers):
    raise UserError(broken('What the model remembers of this text is'))


def broken(what: str) -> str:
  """What to say of a model some of whose numbers are not finite."""
  return (
    f'{what} not finite: the model was damaged, it diverged in training, or '
    'its memory has overflowed. Use an earlier checkpoint.'
  )


def filled_of(after: Remembered | None, segment: int) -> int:
  """Tokens in the open segment: it is written to memory when it is full."""
  return 0 if after is None else after.tokens % segment


@struct.dataclass
class Piece:
  """The same stretch of every row; EMPTY where a row has ended."""

  tokens_BT: Array | np.ndarray
  document_BT: Array | np.ndarray
  slot: int  # of the first token in the open segment
  # The same at compile time where few values occur, so few programs; else None.
  start: int | None = struct.field(pytree_node=False)


def pieces(
  rows: list[np.ndarray], segment: int, width: int, filled: int = 0
) -> Iterator[Piece]:
  """The rows in pieces of at most `width` that end where segments end.

  `filled` tokens are in the first segment already. What fits after them comes
  in powers of two: programs for any number of them are few then.
  """
  longest = max(len(row) for row in rows)
  here, opened = 0, min(segment - filled, longest) if filled else 0
  while here < opened:
    size = 1 << (opened - here).bit_length() - 1
    yield Piece(*_part(rows, here, here + size), filled + here, None)
    here += size
  for first in range(opened, longest, segment):
    for here in range(first, min(first + segment, longest), width):
      part = _part(rows, here, min(here + width, first + segment))
      yield Piece(*part, here - first, here - first)


def _part(rows: list[np.ndarray], start: int, stop: int):
  tokens_BT = np.zeros((len(rows), stop - start), np.int32)
  document_BT = np.full_like(tokens_BT, EMPTY)
  for b, row in enumerate(rows):
    part = row[start:stop]
    tokens_BT[b, : len(part)] = part
    document_BT[b, : len(part)] = 0
  return tokens_BT, document_BT


def piece_width(rows: list[np.ndarray], segment: int) -> int:
  """A segment; for short rows a power of two, to read and compile less."""
  longest = max(1, *(len(row) for row in rows))
  return min(segment, 1 << (longest - 1).bit_length())


def check_tokens(model: Decoder, rows: list[np.ndarray]) -> None:
  """Raises ValueError for what the model has no embedding for."""
  for b, row in enumerate(rows):
    row = np.asarray(row)
    if not row.size:
      continue
    if row.ndim != 1 or row.dtype.kind not in 'iu':
      raise ValueError(
        f'Prompt {b} is a {row.dtype} array of shape {row.shape}, but must be '
        "one row of token ids. Encode text with the model's tokenizer first."
      )
    low, high = row.min(), row.max()
    if low < 0 or high >= model.embed.vocab:
      raise ValueError(
        f'Prompt {b} has token ids from {low} to {high}, but the model knows '
        f'0 to {model.embed.vocab - 1}. Encode it with the tokenizer that '
        'the model was trained with.'
      )


@functools.partial(jax.jit, donate_argnums=1)
def read_piece(
  reader: Reader, state: State, piece: Piece
) -> tuple[Array, State]:
  """Hidden states of one piece, and the state after it."""
  at = segment_coords(piece.document_BT, piece.start or 0)
  if piece.start is None:
    at = at.replace(start=None).shifted(-piece.slot)
  at = at.replace(segment=jnp.zeros_like(at.segment))
  hidden_BTD, carry = advance(reader, state.carry, piece.tokens_BT, at)
  valid_BT = piece.document_BT >= 0
  last_B = jnp.maximum(valid_BT.sum(axis=1) - 1, 0)
  last_BD = hidden_BTD[jnp.arange(len(last_B)), last_B]
  state = state.replace(
    carry=carry,
    hidden_BD=jnp.where(valid_BT[:, :1], last_BD, state.hidden_BD),
    seen_BV=mark(state.seen_BV, piece.tokens_BT, valid_BT),
  )
  return hidden_BTD, state


def advance(reader: Reader, carry: Carry, tokens_BT: Array, at: Coords):
  """Hidden states, and the carry with every full segment closed."""
  model = reader.model
  hidden_BTD, carry, _ = model.apply(
    {'params': reader.params}, tokens_BT, at, carry, reader.scores
  )
  text = carry.open.text
  full = (text.filled == text.at.length).any()
  return hidden_BTD, jax.lax.cond(
    full,
    lambda carry: model.close(reader.params, carry, reader.scores),
    lambda carry: carry,
    carry,
  )


@functools.partial(jax.jit, static_argnums=(1, 2))
def unread(
  reader: Reader, num_rows: int, segment: int, context: Context | None = None
) -> State:
  """Of rows that have read nothing yet."""
  model, embed = reader.model, reader.model.embed
  carry = model.initial(num_rows)
  if context is not None:
    carry = model.with_context(carry, context, reader.params)
  return State(
    carry=model.open(reader.params, num_rows, segment, reader.scores, carry),
    hidden_BD=jnp.zeros((num_rows, embed.width), model.compute.jax_dtype),
    seen_BV=jnp.zeros((num_rows, embed.vocab), bool),
    stopped_B=jnp.zeros(num_rows, bool),
    step=jnp.zeros((), jnp.int32),
  )


@functools.partial(jax.jit, static_argnums=(0, 2))
def _scores(fast: Decoder, params: Params, segment: int) -> Score:
  return fast.scores(params, segment)
