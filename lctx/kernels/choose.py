"""Which kernel: by platform, size, pattern and scores, with the reason."""

import dataclasses
import functools
import logging

import jax

from lctx.kernels.banded import Banded
from lctx.kernels.base import Kernel
from lctx.kernels.chunked import Chunked
from lctx.kernels.dense import Dense
from lctx.kernels.dropout import Dropout
from lctx.kernels.fused import Fused, unfusable
from lctx.kernels.source import Source
from lctx.kernels.splash import Splash, unsplashable

_log = logging.getLogger(__name__)

AT_ONCE = 128  # MiB of logits that may exist at a time
NARROW = 512  # keys of a window above which tiles are as fast on a CPU
ONE_TILE = 128  # queries below which a fused tile is mostly empty
WALKED = 2**30  # logits whose mask the stock kernel walks on the host, in 14 s


@dataclasses.dataclass(frozen=True)
class Auto(Kernel):
  """Takes the kernel that suits each attention, and logs once why.

  `platform` ('cpu', 'gpu', 'tpu'): where the program will run; None = where
  this process computes.
  """

  platform: str | None = None

  def __post_init__(self):
    if self.platform not in (None, 'cpu', 'gpu', 'tpu'):
      raise ValueError(
        f'model.compute.kernel.platform = {self.platform!r} is no platform. '
        "Use 'cpu', 'gpu' or 'tpu', or none for where the process computes."
      )

  def __call__(self, sources, dropout):
    platform = self.platform or jax.default_backend()
    kernel, reason = choose(sources, platform, dropout)
    if sources[0].q.shape[1] > 1:  # of a single token there is little to say
      _log_once(f'attention kernel {kernel}: {reason}')
    return kernel(sources, dropout)


def attended(sources: tuple[Source, ...]) -> jax.Array:
  """Beside a layer's own attention: what queries see, [B, T, N, H].

  By the kernel that suits the size, not the one that the model was given.
  """
  kernel, _ = choose(sources, jax.default_backend())
  return kernel(sources, None)


def choose(
  sources: tuple[Source, ...], platform: str, dropout: Dropout | None = None
) -> tuple[Kernel, str]:
  """A kernel that can, and why this one."""
  batch, length, heads, _ = sources[0].q.shape
  keys = sum(source.k.shape[1] for source in sources)
  size = f'{length:,} queries x {keys:,} keys'
  reason, logits = '', 4 * batch * heads * length * keys / 2**20
  worth = {'tpu': True, 'gpu': logits > AT_ONCE}.get(platform, False)
  if worth and length >= ONE_TILE:
    kernel, reason = _in_one(sources, platform, dropout)
    if kernel is not None:
      one = f'a {platform.upper()} computes {size} in one kernel'
      return kernel, one + reason
  if logits <= AT_ONCE:
    return Dense(), f'the logits of {size} take {logits:,.1f} MiB{reason}'
  band = _band(sources)
  if band is not None and 2 * band <= keys:
    dilated = set(sources[0].pattern.stride) - {1}
    if platform != 'cpu' or dilated or band <= NARROW:
      # Its own number is for the caches of a CPU; others want larger products.
      kernel = Banded() if platform == 'cpu' else Banded(at_once=AT_ONCE)
      return kernel, f'of {size}, a query sees {band + 1:,} at most{reason}'
  return Chunked(), f'the logits of {size} would take {logits:,.0f} MiB{reason}'


def _in_one(
  sources: tuple[Source, ...], platform: str, dropout: Dropout | None
) -> tuple[Kernel | None, str]:
  """The kernel that does all at once, if one can; and why not another."""
  reason = ''
  if platform == 'tpu':
    hindrance = unsplashable(sources, dropout) or _walk(sources[0])
    if hindrance is None:
      return Splash(platform=platform), ', the stock one'
    reason = f' (splash {hindrance})'
  hindrance = unfusable(sources, platform)
  if hindrance is None:
    if not all(source.in_steps for source in sources):
      reason = f', those in no known order by tiles beside it{reason}'
    return Fused(platform=platform), reason
  return None, f' (fused {hindrance})'


def _walk(source: Source) -> str | None:
  """Why the stock kernel's way with masks takes too long, or None."""
  if source.pattern.reach == (None, None):
    return None
  if source.q.shape[1] * source.k.shape[1] <= WALKED:
    return None
  return 'walks a mask of this size on the host, which takes long'


def _band(sources: tuple[Source, ...]) -> int | None:
  """The widest window, where there is one and coordinates promise enough."""
  widest = 0
  for source in sources:
    reach = source.pattern.reach
    if None in (*reach, source.q_at.start, source.k_at.start):
      return None
    if source.pattern.stride != sources[0].pattern.stride:
      return None
    widest = max(widest, sum(reach))
  return widest


@functools.cache
def _log_once(text: str) -> None:
  _log.info(text)
