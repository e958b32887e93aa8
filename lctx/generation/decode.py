"""Going on from a prompt: a chunked prefill, then one token at a time.

Each new token joins its row's open segment, which is written to memory when
it is full, where training would have written it; for ever in the same memory.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from lctx.errors import UserError
from lctx.generation.reading import (
  Reader,
  Remembered,
  State,
  advance,
  begin,
  broken,
  check_tokens,
  filled_of,
  piece_width,
  pieces,
  read,
  read_piece,
)
from lctx.generation.sampling import Sampling, mark, row_keys, sample
from lctx.models.cross import Context
from lctx.models.text import Decoder
from lctx.types import EMPTY, Array, Coords, Params

BLOCK = 8  # tokens per call of the device: fewer stream, more go faster
NOT_FINITE = -2  # in place of a token: the model's probabilities are broken


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
  """What to go on from, and how.

  Each prompt is a row of token ids that opens with the codec's start mark, or
  goes on `after` what was read before. `max_new_tokens` None = for ever. A row
  ends after the token `stop`. `context` is what a decoder beside an encoder
  looks at.
  """

  prompts: list[np.ndarray]
  max_new_tokens: int | None = None
  sampling: Sampling = dataclasses.field(default_factory=Sampling)
  seed: int = 0
  stop: int | None = None
  after: Remembered | None = None
  context: Context | None = None

  def __post_init__(self):
    nothing = self.after is None and not all(map(len, self.prompts))
    if not self.prompts or nothing:
      raise ValueError(
        f'prompts has {len(self.prompts)} rows of lengths '
        f'{[len(prompt) for prompt in self.prompts]}, and there is nothing to '
        'go on from in an empty one. Give at least one prompt, and let each '
        "open with the tokenizer's start mark."
      )
    if self.max_new_tokens is not None and self.max_new_tokens < 1:
      raise ValueError(
        f'max_new_tokens={self.max_new_tokens} must be at least 1. Give the '
        'number of tokens to add to each prompt.'
      )
    if not 0 <= self.seed < 2**32:
      raise ValueError(
        f'seed={self.seed} is outside what a random key takes. Use a whole '
        'number from 0 to 2**32 - 1.'
      )


def generate(
  model: Decoder, params: Params, request: Request, segment: int
) -> Iterator[np.ndarray]:
  """New tokens as they come: int32 [B], one per prompt and turn.

  A row that met `request.stop` yields EMPTY from then on; when all have, it
  is over. `segment` is the length the model was trained with. Raises
  ValueError for a token outside the vocabulary, and UserError where the
  parameters give probabilities that are not finite.
  """
  check_tokens(model, request.prompts)
  longest, more = max(map(len, request.prompts)), request.max_new_tokens
  if request.after is not None:
    longest += request.after.tokens
  model.check_length(None if more is None else longest + more, 'What is read')
  return _tokens(model, params, request, segment)


def score(
  model: Decoder,
  params: Params,
  ids: np.ndarray,
  segment: int,
  width: int | None = None,
  after: Remembered | None = None,
) -> np.ndarray:
  """Nats of ids[1:], each given all before it: float32 [len(ids) - 1].

  `after` what was read before, nats of all ids. Read by the segments that
  `generate` reads by, `width` tokens at a time, at most a segment; None = as
  many as is fastest. Raises ValueError for fewer than two tokens, or none after
  others, and for a token outside the vocabulary; UserError where a loss is not
  finite.
  """
  if after is not None and not len(ids):
    raise ValueError(
      'There is nothing to score after what was read. Give at least one token.'
    )
  if len(ids) < 2 and after is None:
    raise ValueError(
      f'There are {len(ids)} tokens to score, but the first only says where '
      'the text begins. Give the start mark and at least one token after it.'
    )
  check_tokens(model, [ids])
  known = 0 if after is None else after.tokens
  model.check_length(known + len(ids) - 1, 'The text')
  reader, state = begin(model, params, 1, segment, after)
  nll, filled = [], filled_of(after, segment)
  if after is not None:
    first_BT = np.asarray(ids[:1])[None]
    nll.append(np.asarray(_nll(reader, state.hidden_BD[:, None], first_BT))[0])
  width = width or piece_width([ids], segment)
  for piece, target in zip(
    pieces([ids[:-1]], segment, width, filled),
    pieces([ids[1:]], segment, width, filled),
  ):
    hidden, state = read_piece(reader, state, piece)
    row = np.asarray(_nll(reader, hidden, target.tokens_BT))
    nll.append(row[target.document_BT >= 0])
  found = np.concatenate(nll)
  if not np.isfinite(found).all():
    first = 1 + np.isfinite(found).argmin()
    raise UserError(broken(f'The losses from token {first:,} on are'))
  return found


def _tokens(model: Decoder, params: Params, request: Request, segment: int):
  given = model, params, request.prompts, segment, request.after
  reader, state = read(*given, context=request.context)
  endless = _endless(reader, state, request)
  turns = itertools.islice(endless, request.max_new_tokens)
  for turn, tokens_B in enumerate(turns):
    if (tokens_B == NOT_FINITE).any():
      after = f"The model's probabilities after {turn} new tokens are"
      raise UserError(broken(after))
    if (tokens_B == EMPTY).all():
      return
    yield tokens_B


def _endless(reader: Reader, state: State, request: Request):
  key = jax.random.key(request.seed)
  stop = EMPTY if request.stop is None else request.stop
  while True:
    state, tokens_TB = _write(reader, state, key, stop, request.sampling)
    yield from np.asarray(tokens_TB)


@jax.jit
def _nll(reader: Reader, hidden_BTD: Array, targets_BT: Array) -> Array:
  return reader.model.apply(
    {'params': reader.params}, hidden_BTD, targets_BT, method='nll'
  )


@functools.partial(jax.jit, static_argnums=4, donate_argnums=1)
def _write(reader: Reader, state: State, key, stop, sampling: Sampling):
  """The next BLOCK tokens of each row, [T, B], and the state after them."""

  def one(state, _):
    token_B = _choose(reader, state, key, sampling)
    token_B = jnp.where(state.stopped_B, EMPTY, token_B)
    return append(reader, state, token_B, stop), token_B

  return jax.lax.scan(one, state, length=BLOCK)


def _choose(reader: Reader, state: State, key, sampling: Sampling) -> Array:
  logp_BV = reader.model.apply(
    {'params': reader.params}, state.hidden_BD[:, None], method='log_probs'
  )[:, 0]
  keys_B = row_keys(key, logp_BV.shape[0], state.step)
  token_B = sample(logp_BV, state.seen_BV, sampling, keys_B)
  return jnp.where(jnp.isfinite(logp_BV.max(axis=1)), token_B, NOT_FINITE)


def append(reader: Reader, state: State, token_B: Array, stop: Array) -> State:
  """Reads one token in each row that goes on; after `stop` a row does not."""
  stopped_B = state.stopped_B | (token_B < 0)
  document_B1 = jnp.where(stopped_B, EMPTY, 0)[:, None]
  index_B1 = state.carry.open.filled[:, None]
  zeros_B1 = jnp.zeros_like(index_B1)
  at = Coords(
    index=index_B1,
    position=index_B1,
    offset=zeros_B1,  # the model counts
    document=document_B1,
    segment=zeros_B1,
    role=zeros_B1,
  )
  token_B1 = jnp.maximum(token_B, 0)[:, None]
  hidden_B1D, carry = advance(reader, state.carry, token_B1, at)
  return State(
    carry=carry,
    hidden_BD=hidden_B1D[:, 0],
    seen_BV=mark(state.seen_BV, token_B1, document_B1 >= 0),
    stopped_B=stopped_B | (token_B == stop),
    step=state.step + 1,
  )
