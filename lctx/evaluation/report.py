"""What an evaluation found: on screen, and as JSON."""

import dataclasses
import json
import math
import textwrap
from collections.abc import Iterable
from pathlib import Path

from lctx.data.codec import write_whole
from lctx.evaluation.gain import Comparison, Estimate, Loss, Stretch
from lctx.evaluation.units import Units

WIDTH = 80


@dataclasses.dataclass(frozen=True)
class Result:
  """`title` says what was evaluated; `comparison`: None if memory was not.

  `positions` are the losses by distance into the document.
  """

  title: str
  units: Units
  comparison: Comparison | None
  positions: tuple[Stretch, ...] = ()


def table(result: Result) -> str:
  """Everything, in plain text of at most 80 columns."""
  blocks = [_heading(result.title), _units(result.units)]
  if result.comparison is not None:
    blocks += [summary(result.comparison), _bins(result.comparison)]
  else:
    blocks.append(
      'Memory is not compared: that takes eval.compare and a memory to compare.'
    )
  return '\n\n'.join(block for block in blocks if block)


def summary(comparison: Comparison) -> str:
  """Bits per byte with memory, another's and none, and what memory gains."""
  past = comparison.past
  lines = [
    f'Bits per byte past the first segment ({comparison.segment:,} tokens into '
    'a document)',
    '',
    f'  {"":44}{"bits/byte":>9}   95% interval',
    *_losses(past),
    '',
    *_gains(past),
    '',
    f'  counted: {past.tokens:,} tokens, {past.num_bytes:,} bytes, '
    f'{_documents(past.documents)}',
  ]
  if past.gain is not None and past.gain.low is not None:
    lines.append(
      f'  intervals: {comparison.resamples:,} resamples of the documents'
    )
  if comparison.note:
    lines += textwrap.wrap(
      comparison.note, WIDTH, initial_indent='  ', subsequent_indent='  '
    )
  return '\n'.join(lines)


def save_json(result: Result, path: str | Path) -> None:
  """Writes the result, whole or not at all; numbers not finite are null."""
  content = _finite(dataclasses.asdict(result))
  text = json.dumps(content, indent=2, allow_nan=False) + '\n'
  write_whole(Path(path), text.encode())


def _heading(title: str) -> str:
  return f'{title}\n{"=" * min(WIDTH, len(title))}'


def _units(units: Units) -> str:
  rows = [
    ('bits per byte', units.bits_per_byte, '{:.4f}'),
    ('bits per character', units.bits_per_character, '{:.4f}'),
    ('bits per token', units.bits_per_token, '{:.4f}'),
    ('perplexity per token', units.token_perplexity, '{:.6g}'),
    ('perplexity per word', units.word_perplexity, '{:.6g}'),
    ('tokens', units.tokens, '{:,}'),
    ('bytes', units.num_bytes, '{:,}'),
    ('characters', units.num_chars, '{:,}'),
    ('words', units.num_words, '{:,}'),
  ]
  lines = [
    f'  {name:<24}{"-" if value is None else form.format(value):>14}'
    for name, value, form in rows
  ]
  return '\n'.join(['All tokens', '', *lines])


def _losses(past: Stretch) -> Iterable[str]:
  for name, loss in (
    ('with its memory', past.own),
    ('with the memory of another document (swap)', past.swap),
    ('without memory', past.none),
  ):
    if loss is not None:
      yield _row(name, loss.bits_per_byte, '{:.4f}')


def _gains(past: Stretch) -> Iterable[str]:
  for name, gain in (
    ('gain: without memory - with its memory', past.gain),
    ('gain: swap - with its memory', past.gain_over_swap),
  ):
    if gain is not None:
      yield _row(name, gain, '{:+.4f}')


def _row(name: str, estimate: Estimate, form: str) -> str:
  value = '-' if estimate.value is None else form.format(estimate.value)
  row = f'  {name:<44}{value:>9}   {_interval(estimate, form)}'
  return row.rstrip()


def _interval(estimate: Estimate, form: str) -> str:
  if estimate.low is None or estimate.high is None:
    return ''
  return f'{form.format(estimate.low)} to {form.format(estimate.high)}'


def _bins(comparison: Comparison) -> str:
  if not comparison.bins:
    return ''
  head = (
    f'  {"distance":>23}{"docs":>7}{"own":>7}{"swap":>7}{"none":>7}'
    f'{"gain":>9}  95% interval'
  )
  lines = [
    f'  {f"{s.first:,} to {s.end - 1:,}":>23}{s.documents:>7,}'
    f'{_bits(s.own)}{_bits(s.swap)}{_bits(s.none)}{_gain(s.gain)}'
    for s in comparison.bins
  ]
  title = (
    'Bits per byte by distance into the document (tokens); gain: none - own'
  )
  return '\n'.join([title, '', head, *lines])


def _bits(loss: Loss | None) -> str:
  if loss is None or loss.bits_per_byte.value is None:
    return f'{"-":>7}'
  return f'{loss.bits_per_byte.value:7.3f}'


def _gain(gain: Estimate | None) -> str:
  if gain is None or gain.value is None:
    return f'{"-":>9}'
  if gain.low is None or gain.high is None:
    return f'{gain.value:+9.3f}'
  return f'{gain.value:+9.3f}  {gain.low:+.3f}..{gain.high:+.3f}'


def _documents(count: int) -> str:
  return '1 document' if count == 1 else f'{count:,} documents'


def _finite(value):
  """The same, with None for every float that JSON cannot hold."""
  if isinstance(value, dict):
    return {name: _finite(entry) for name, entry in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(entry) for entry in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
