"""Published weights as a workdir, which eval.py and train.py take as theirs.

python -m lctx.imported --weights=FILE --config=FILE[:arg] --workdir=DIR

FILE is an official Transformer-XL state dict, as .npz or .safetensors. The
vocabulary comes from the config's corpus, so its order must be that of the
weights: both count words by frequency, and `data.tokenizer.path` gives any
other order. Wrong ids show at once, as a perplexity in the thousands.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from lctx import command
from lctx import config as configs
from lctx.checkpoint import CheckpointStore
from lctx.config import Config
from lctx.errors import UserError, checking, writable
from lctx.interop import transformer_xl
from lctx.prepared import Run, checkpoint_meta, prepared
from lctx.training.state import initial_state, with_params
from lctx.types import Params


def import_weights(
  weights: str | Path, config: Config, workdir: str | Path
) -> None:
  """Writes `workdir` as if training had made these weights at step 0.

  Raises:
    UserError: weights that do not fit the model or the vocabulary, or a
      workdir in which something was trained.
  """
  folder = writable(workdir)
  with checking():
    arrays = transformer_xl.load(weights)
  run = prepared(config, folder)
  with checking():
    _check_vocabulary(arrays, run, weights)
    params = transformer_xl.read(arrays, run.model)
  with CheckpointStore(folder / 'checkpoints', config.checkpoint) as store:
    if store.steps:
      raise UserError(
        f'workdir = {str(workdir)!r} has checkpoints of steps {store.steps}, '
        'which imported weights would mix with. Give --workdir a new name.'
      )
    store.save(0, _state(run, params), checkpoint_meta(run, {}))
  configs.save(config, folder)


def _state(run: Run, params: Params):
  state = initial_state(
    run.model,
    run.transform,
    run.config.seed,
    run.config.data.rows,
    run.abstract,
  )
  return with_params(state, params, run.abstract)


def _check_vocabulary(arrays, run: Run, weights) -> None:
  names = (n for n in arrays if n.startswith('crit.out_layers.'))
  size = sum(len(arrays[name]) for name in names if name.endswith('.bias'))
  if size and size != run.codec.size:
    raise ValueError(
      f'{weights} has a vocabulary of {size:,}, but data.tokenizer makes '
      f'{run.codec.size:,} ids of data.corpus. They must be the same text and '
      'tokenizer; a ready word list, one a line, goes into '
      'data.tokenizer.path.'
    )


def program() -> None:
  """The command line; its flags are defined only where it is the program."""
  config_flag = config_flags.DEFINE_config_file(
    'config',
    None,
    'A Python file with the model and text of the weights; '
    '--config.NAME=VALUE sets any of its fields.',
    lock_config=False,
    sys_argv=[],  # overrides of a Config are ours
  )
  weights = flags.DEFINE_string(
    'weights', None, 'The state dict, an .npz or .safetensors file.'
  )
  workdir = flags.DEFINE_string('workdir', None, 'A new folder to write.')

  def main(overrides: command.Overrides) -> None:
    config = configs.changed(config_flag.value, overrides)
    import_weights(weights.value, config, workdir.value)
    print(
      f'wrote {workdir.value}. Now: python eval.py --workdir={workdir.value}'
    )

  required = [config_flag, weights, workdir]
  command.run(main, required=required, load=configs.load)


if __name__ == '__main__':
  program()
