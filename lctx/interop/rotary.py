"""Rotary positions as a `config.json` spells them, old and new, and back."""

from lctx.interop.options import Options
from lctx.positions.rope import (
  DynamicNtk,
  Linear,
  Llama3,
  LongRope,
  Plain,
  Rope,
  Stretch,
  Yarn,
)


def read(
  options: Options, *, longest: int, base: float = 10_000.0, share: float = 1.0
) -> Rope:
  """The positions of a model that was trained to read `longest` tokens.

  `base` and `share` stand in `rope_parameters`, or beside `rope_scaling`; else
  they are as given.
  Raises ValueError for a kind or a parameter that is not known.
  """
  share = options.take('partial_rotary_factor', share)
  beside = options.take('rope_parameters', {})
  base = options.take('rope_theta', beside.get('rope_theta', base))
  given = options.take('rope_scaling', None) or beside  # as transformers does
  inner = Options(given, f'rope_parameters of {options.where}')
  kind = inner.take('rope_type', inner.take('type', 'default'))
  if kind not in _READ:
    raise ValueError(
      f'{options.where} has rope_type = {kind!r}, which is not known here. '
      f'Known are {", ".join(_READ)}.'
    )
  base = float(inner.take('rope_theta', base))
  share = inner.take('partial_rotary_factor', share)
  stretch = _READ[kind](inner, longest)
  inner.check_all_read()
  return Rope(base=base, share=float(share), stretch=stretch)


def _trained(inner, longest):
  return inner.take('original_max_position_embeddings', longest)


def _dynamic(inner, longest):
  inner.take('original_max_position_embeddings', None)  # nobody computes by it
  return DynamicNtk(float(inner.take('factor')), longest, longest)


def _yarn(inner, longest):
  return Yarn(
    float(inner.take('factor')),
    _trained(inner, longest),
    fast=float(inner.take('beta_fast', 32.0)),
    slow=float(inner.take('beta_slow', 1.0)),
    attention_factor=inner.take('attention_factor', None),
    mscale=inner.take('mscale', None),
    mscale_all_dim=inner.take('mscale_all_dim', None),
    truncate=inner.take('truncate', True),
  )


def _longrope(inner, longest):
  trained = _trained(inner, longest)
  short, long = (tuple(inner.take(f'{x}_factor')) for x in ('short', 'long'))
  attention = inner.take('attention_factor', None)
  factor = inner.take('factor', longest / trained)
  if attention is not None:
    factor = None
  return LongRope(short, long, trained, trained, factor, attention)


def _llama3(inner, longest):
  return Llama3(
    float(inner.take('factor')),
    _trained(inner, longest),
    low=float(inner.take('low_freq_factor', 1.0)),
    high=float(inner.take('high_freq_factor', 4.0)),
  )


_READ = {
  'default': lambda inner, longest: Plain(),
  'linear': lambda inner, longest: Linear(float(inner.take('factor'))),
  'dynamic': _dynamic,
  'yarn': _yarn,
  'longrope': _longrope,
  'llama3': _llama3,
}


def write(rope: Rope) -> dict:
  """`rope_parameters`. Raises ValueError for what they cannot say."""
  if rope.interleaved:
    raise ValueError(
      'model.position.interleaved pairs neighbouring channels, which '
      'rope_parameters cannot say. Keep the lctx checkpoint.'
    )
  found = {'rope_theta': rope.base, **_written(rope.stretch)}
  if rope.share != 1:
    found['partial_rotary_factor'] = rope.share
  return found


def _written(stretch: Stretch) -> dict:
  trained = {'original_max_position_embeddings': getattr(stretch, 'trained', 0)}
  match stretch:
    case Plain():
      return {'rope_type': 'default'}
    case Linear():
      return {'rope_type': 'linear', 'factor': stretch.factor}
    case DynamicNtk():
      return {'rope_type': 'dynamic', 'factor': stretch.factor}
    case Llama3():
      return {
        'rope_type': 'llama3',
        'factor': stretch.factor,
        'low_freq_factor': stretch.low,
        'high_freq_factor': stretch.high,
        **trained,
      }
    case Yarn():
      found = {
        'rope_type': 'yarn',
        'factor': stretch.factor,
        'beta_fast': stretch.fast,
        'beta_slow': stretch.slow,
        'truncate': stretch.truncate,
        'attention_factor': stretch.attention_factor,
        'mscale': stretch.mscale,
        'mscale_all_dim': stretch.mscale_all_dim,
        **trained,
      }
    case LongRope():
      found = {
        'rope_type': 'longrope',
        'short_factor': list(stretch.short),
        'long_factor': list(stretch.long),
        'factor': stretch.factor,
        'attention_factor': stretch.attention_factor,
        **trained,
      }
    case _:
      raise ValueError(
        f'model.position.stretch = {stretch} has no name in rope_parameters. '
        f'They know {", ".join(_READ)}. Keep the lctx checkpoint.'
      )
  return {name: value for name, value in found.items() if value is not None}
