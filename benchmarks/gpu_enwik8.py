"""The 41M model on enwik8 in bfloat16, for some minutes on a GPU.

python -m benchmarks.gpu_enwik8 --data=enwik8.zip --workdir=DIR [--minutes=60]

A few steps are timed first; then configs/enwik8_base.py is trained for as many
as fit, so that its schedule ends with the time. `DIR/speed.jsonl` has tokens
read, seconds of training and bits per character on validation text, and
`DIR/speed.png` draws them. --config.NAME=VALUE changes the config. It trains on
as much of enwik8 as the file has; the same command goes on if stopped.
"""

import json
from pathlib import Path

import jax
from absl import flags

import lctx
from benchmarks import timing
from benchmarks.cases import from_config, train_step
from lctx import command, config

CONFIG = Path(__file__).parent.parent / 'configs' / 'enwik8_base.py'
DATA = flags.DEFINE_string('data', None, 'The text: enwik8, or a part of it.')
WORKDIR = flags.DEFINE_string('workdir', None, 'As in train.py.')
MINUTES = flags.DEFINE_float('minutes', 60.0, 'How long to train.', 0.0)
ALLOW_CPU = flags.DEFINE_bool('allow_cpu', False, 'Run without a GPU, too.')

VALIDATIONS = 20  # points of the curve
TRAINING = 0.9  # of the minutes; validation and compiling take the rest


def main(overrides: command.Overrides) -> None:
  if jax.default_backend() != 'gpu' and not ALLOW_CPU.value:
    raise lctx.UserError(
      f'this benchmark needs a GPU, and jax has found {jax.devices()[0]}. '
      "Install jax for it (pip install 'lctx[cuda]'), or give --allow_cpu."
    )
  folder = Path(WORKDIR.value)
  if (folder / 'config.json').is_file():  # goes on as it began
    cfg = config.read(folder)
  else:
    cfg = planned(DATA.value, MINUTES.value, overrides)
  lctx.train(cfg, folder)
  found = curve(folder)
  lines = [json.dumps(record) for record in [timing.machine(), *found]]
  (folder / 'speed.jsonl').write_text('\n'.join(lines) + '\n')
  picture(found, folder / 'speed.png')
  print(f'wrote {folder / "speed.jsonl"}\nwrote {folder / "speed.png"}')


def planned(
  text: str, minutes: float, overrides: command.Overrides
) -> lctx.Config:
  """The config with as many steps as fit into the minutes on this device.

  `train.steps` among the overrides is taken as it is.
  """
  base = config.load(
    f'{CONFIG}:{text}', {'model.compute.dtype': 'bfloat16', **overrides}
  )
  if 'train.steps' in overrides:
    steps = base.train.steps
  else:
    step, _ = train_step(from_config(base))
    seconds = timing.interleaved({'step': step}, rounds=10)['step'].wall
    steps = max(1, int(60 * minutes * TRAINING / seconds))
    print(f'{1000 * seconds:,.0f} ms a step: {steps:,} steps')
  every = max(1, steps // VALIDATIONS)
  plan = {
    'train.steps': str(steps),
    'train.eval_every': str(every),
    'checkpoint.every': str(every),
    'log.every': str(max(1, every // 10)),
  }
  return config.changed(base, {**plan, **overrides})


def curve(folder: Path) -> list[dict]:
  """Every validation: tokens read, seconds of training, bits per character.

  The published vocabulary drops newlines, and published numbers are per
  character of what is left: that is bits per token here.
  """
  seconds, tokens, last, found = 0.0, 0, 0, []
  with open(folder / 'metrics.jsonl', encoding='utf-8') as lines:
    for record in map(json.loads, lines):
      if 'step_seconds' in record:
        seconds += record['step_seconds'] * (record['step'] - last)
        tokens, last = record['tokens'], record['step']
      if 'valid/bits_per_token' in record:
        found.append(
          {
            'step': record['step'],
            'tokens': tokens,
            'seconds': seconds,
            'bits_per_character': record['valid/bits_per_token'],
          }
        )
  return found


def picture(found: list[dict], path: Path) -> None:
  """Draws bits per character against tokens and against seconds."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(9, 4), dpi=150, layout='constrained')
  FigureCanvasAgg(figure)
  both = figure.subplots(1, 2, sharey=True)
  y = [record['bits_per_character'] for record in found]
  for axes, name in zip(both, ('tokens', 'seconds'), strict=True):
    axes.plot([record[name] for record in found], y, marker='o')
    axes.set_xlabel(f'{name} of training')
    axes.set_xlim(left=0)
  both[0].set_ylabel('bits per character, validation')
  figure.savefig(path)


if __name__ == '__main__':
  command.run(main, required=[DATA, WORKDIR])
