"""A dataset of TensorFlow Datasets, made without TensorFlow."""

import tensorflow_datasets as tfds

TEXTS = {
  'train': [f'training text number {i}, größer\n' for i in range(30)],
  'validation': ['a text to choose by'],
  'test': ['a text to judge by', '', 'another'],
}


class TinyTexts(tfds.core.GeneratorBasedBuilder):
  """Thirty training texts, one to validate, three (one empty) to test."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    text = tfds.features.Text()
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict({'text': text, 'title': text}),
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in TEXTS}

  def _generate_examples(self, split):
    for number, text in enumerate(TEXTS[split]):
      yield number, {'text': text, 'title': f'{split} {number}'}


class TinyTrainOnly(TinyTexts):
  """The training texts alone."""

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples('train')}
