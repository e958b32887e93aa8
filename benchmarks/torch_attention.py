"""Transformer-XL's attention in PyTorch: what a GPU's kernels are up against.

Letters as in lctx/types.py, but heads come before the length, as PyTorch has
them. Each attention is a function of `Inputs` that gives y [B, N, T, H].
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


class Inputs(NamedTuple):
  """Queries are not scaled yet."""

  q: Tensor  # [B, N, T, H]
  k: Tensor  # likewise
  v: Tensor  # likewise
  r: Tensor  # [N, T, H]: relative keys, from the nearest distance on
  u: Tensor  # [N, 1, H]: asks for content
  w: Tensor  # [N, 1, H]: asks for distance


def from_numpy(
  learned: Mapping[str, np.ndarray], device: str, dtype: str
) -> Inputs:
  """The inputs of a `Problem` with score 'xl', to be differentiated."""
  scale = learned['q'].shape[-1] ** -0.5
  x = Inputs(
    heads_first(learned['q'] / scale),
    heads_first(learned['k']),
    heads_first(learned['v']),
    heads_first(learned['r'][None])[0],
    torch.tensor(learned['u'])[:, None],
    torch.tensor(learned['w'])[:, None],
  )
  kind = getattr(torch, dtype)
  return Inputs(*(one.to(device, kind).requires_grad_() for one in x))


def heads_first(x_BTNH: np.ndarray) -> Tensor:
  return torch.tensor(x_BTNH).transpose(1, 2).contiguous()


def heads_second(x_BNTH: Tensor) -> np.ndarray:
  return x_BNTH.detach().float().cpu().transpose(1, 2).numpy()


def relative(length: int, device: str) -> Callable[[Inputs], Tensor]:
  """As published (Dai et al. 2019, appendix B): every logit at once; causal.

  All is in the type of the inputs, the softmax too.
  """
  ahead_TS = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)

  def attention(x: Inputs) -> Tensor:
    content_BNTS = (x.q + x.u) @ x.k.mT
    distance_BNTP = (x.q + x.w) @ x.r.flip(1).mT  # from the longest down
    wider = functional.pad(distance_BNTP, (1, 0))
    wider = wider.view(*distance_BNTP.shape[:2], length + 1, length)
    shifted_BNTS = wider[:, :, 1:].reshape(content_BNTS.shape)
    s_BNTS = (content_BNTS + shifted_BNTS) * x.q.shape[-1] ** -0.5
    s_BNTS = s_BNTS.masked_fill(ahead_TS, float('-inf'))
    return s_BNTS.softmax(dim=-1) @ x.v

  return attention


def flex(length: int, device: str) -> Callable[[Inputs], Tensor]:
  """FlexAttention, compiled: the only way in which it is fused.

  A score may look up numbers but not multiply a query with a relative key, so
  what each query thinks of each distance, [T, T], is computed before. That is
  outside of what is compiled: not every back end can have it inside.
  """
  attend = torch.compile(flex_attention, dynamic=False)

  def causal(b, n, t, s):
    return t >= s

  mask = create_block_mask(causal, None, None, length, length, device=device)

  def attention(x: Inputs) -> Tensor:
    scale = x.q.shape[-1] ** -0.5
    distance_BNTP = ((x.q + x.w) * scale) @ x.r.mT

    def score(s, b, n, t, key):
      return s + distance_BNTP[b, n, t, (t - key).abs()]  # ahead: masked

    return attend(
      x.q + x.u, x.k, x.v, score_mod=score, block_mask=mask, scale=scale
    )

  return attention


def ways(length: int, device: str) -> dict[str, Callable[[Inputs], Tensor]]:
  """Every attention that PyTorch has for it, by name."""
  eager = relative(length, device)
  return {
    'PyTorch, eager': eager,
    'PyTorch, compiled': torch.compile(eager, dynamic=False),
    'PyTorch, FlexAttention': flex(length, device),
  }


def forward(attention: Callable, x: Inputs) -> Tensor:
  return attention(Inputs(*(one.detach() for one in x)))


def both(attention: Callable, x: Inputs, dy: Tensor):
  """y and the gradients of all inputs."""
  y = attention(x)
  return y, Inputs(*torch.autograd.grad(y, x, dy))
