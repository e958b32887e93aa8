"""Against Transformer-XL in PyTorch, both timed in turns in one run.

pip install torch==2.13.0 transformers==4.35.2
python -m benchmarks.huggingface [--json=FILE]

It is Hugging Face's port of the published code; of the releases tried on this
PyTorch, 4.35 runs it, and 4.38 and 4.46 do not. Training is a step of Adam with
clipping, from hidden states that are carried on; evaluation reads segments with
a full memory and predicts every token. Both have the same sizes, float32, all
cores, and random tokens.
"""

import functools
import os
from collections.abc import Callable

from absl import flags

import lctx
from benchmarks import timing
from benchmarks.cases import (
  BASE,
  SMALL,
  VOCABULARY,
  Case,
  evaluation,
  train_step,
)
from lctx.evaluation.score import AT_ONCE

try:
  import torch
  import transformers
except ImportError:
  torch = None

JSON = flags.DEFINE_string('json', '', 'A file for everything that was found.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Calls of each that are timed.', 1)

PUBLISHED_EVALUATION = Case(
  # Two of its 12 layers: layers are alike, so their number changes no ratio.
  'enwik8_base as evaluated: 2 layers, width 512, T = 80, M = 2,100, batch 10',
  lctx.presets.transformer_xl(
    2, 512, 8, 2100, same_length=True, clamp=820, vocab=VOCABULARY
  ),
  rows=10,
  segment=80,
)
COLUMNS = ('', 'lctx tokens/s', 'PyTorch tokens/s', 'ratio', 'ratio in CPU s')


def main() -> None:
  if torch is None or not hasattr(transformers, 'TransfoXLConfig'):
    raise lctx.UserError(
      'benchmarks.huggingface needs PyTorch and a transformers that still has '
      'Transformer-XL. Give it an environment of its own and install there: '
      "pip install -e . torch==2.13.0 'transformers==4.35.2'"
    )
  torch.set_num_threads(os.cpu_count())
  found = {'machine': timing.machine(), 'speeds': []}
  print(timing.heading(found['machine']))
  print(f'torch {torch.__version__}, transformers {transformers.__version__}\n')
  for case in (SMALL, BASE):
    found['speeds'].append(compared(case, 'train', train_step(case)[0]))
  for case in (SMALL, BASE, PUBLISHED_EVALUATION):
    found['speeds'].append(compared(case, 'evaluate', evaluation(case)[0]))
  rows = [list(record.values()) for record in found['speeds']]
  print(timing.table(COLUMNS, rows))
  timing.save_json(found, JSON.value)


def compared(case: Case, what: str, ours: Callable[[], object]) -> dict:
  """Tokens per second of both."""
  theirs = {'train': _train, 'evaluate': _evaluate}[what]
  found = timing.interleaved(
    {'lctx': ours, 'PyTorch': theirs(case)}, ROUNDS.value
  )
  tokens = case.rows * case.segment * (1 if what == 'train' else AT_ONCE)
  lctx_, torch_ = found['lctx'], found['PyTorch']
  return {
    'case': f'{what}: {case.name}',
    'tokens_per_second': tokens / lctx_.wall,
    'pytorch_tokens_per_second': tokens / torch_.wall,
    'ratio': torch_.wall / lctx_.wall,
    'cpu_ratio': torch_.cpu / lctx_.cpu,
  }


def _theirs(case: Case) -> 'torch.nn.Module':
  stack, embed, memory = case.model.stack, case.model.embed, case.model.memory
  config = transformers.TransfoXLConfig(
    vocab_size=embed.vocab,
    cutoffs=[],
    d_model=embed.width,
    d_embed=embed.width,
    n_head=stack.num_heads,
    d_head=embed.width // stack.num_heads,
    d_inner=stack.ffn_width_of(embed.width),
    div_val=1,
    n_layer=stack.depth,
    mem_len=memory.length,
    clamp_len=case.model.position.clamp or -1,
    same_length=memory.same_length,
    adaptive=False,
    dropout=0.0,
    dropatt=0.0,
  )
  return transformers.TransfoXLLMHeadModel(config)


def _train(case: Case) -> Callable[[], None]:
  model = _theirs(case).train()
  optimizer = torch.optim.Adam(model.parameters(), 1e-4)
  ids, held = _ids(case), [None]

  def step():
    out = model(ids, mems=held[0], labels=ids)
    held[0] = out.mems
    optimizer.zero_grad()
    out.losses.mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()

  return step


def _evaluate(case: Case) -> Callable[[], None]:
  model, ids, held = _theirs(case).eval(), _ids(case), [None]
  read = functools.partial(model, ids, labels=ids)

  @torch.no_grad()
  def segments():
    for _ in range(AT_ONCE):
      held[0] = read(mems=held[0]).mems

  while held[0] is None or len(held[0][0]) < case.model.memory.length:
    segments()
  return segments


def _ids(case: Case) -> 'torch.Tensor':
  return torch.randint(0, VOCABULARY, (case.rows, case.segment))


if __name__ == '__main__':
  timing.run(main)
