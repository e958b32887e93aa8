"""Parts as text: what an override means is what building directly means."""

import dataclasses

import pytest
from flax import linen as nn

from lctx.overrides import from_json, override, to_json


@dataclasses.dataclass(frozen=True)
class Shape:
  """A base class: it leaves its area to others."""

  def area(self) -> float:
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Circle(Shape):
  radius: float = 1.0

  def __post_init__(self):
    if self.radius <= 0:
      raise ValueError(f'a radius of {self.radius} is too small.')

  def area(self):
    return 3.0 * self.radius**2


@dataclasses.dataclass(frozen=True)
class Box(Shape):
  width: int
  height: int
  filled: bool = False

  def area(self):
    return float(self.width * self.height)


@dataclasses.dataclass(frozen=True)
class Pile(Shape):
  shapes: tuple[Shape, ...] = ()
  weights: tuple[float, ...] = ()
  at: tuple[int, int] = (0, 0)

  def area(self):
    return sum(shape.area() for shape in self.shapes)


class Layer(nn.Module):
  shape: Shape
  width: int = 8


@dataclasses.dataclass(frozen=True)
class Page:
  layer: Layer
  shape: Shape | None = None
  title: str = ''
  limit: int | None = None
  only: Circle | Box | None = None


PAGE = Page(Layer(Circle()))


@pytest.mark.parametrize(
  'overrides, expected',
  [
    ({}, PAGE),
    ({'title': 'a=b, c'}, Page(Layer(Circle()), title='a=b, c')),
    ({'title': 'none'}, Page(Layer(Circle()), title='none')),
    ({'limit': '1_000'}, Page(Layer(Circle()), limit=1000)),
    ({'limit': 'none'}, PAGE),
    ({'layer.width': '3'}, Page(Layer(Circle(), 3))),
    ({'layer.shape.radius': '1e-3'}, Page(Layer(Circle(1e-3)))),
    ({'layer.shape.radius': '2'}, Page(Layer(Circle(2.0)))),
    ({'shape': 'circle'}, Page(Layer(Circle()), shape=Circle())),
    (
      {'shape.width': '1', 'shape': 'BOX', 'shape.height': '2'},
      Page(Layer(Circle()), shape=Box(1, 2)),
    ),
    (
      {
        'only': 'Box',
        'only.width': '1',
        'only.height': '2',
        'only.filled': '1',
      },
      Page(Layer(Circle()), only=Box(1, 2, True)),
    ),
    (
      {
        'only': 'Box',
        'only.width': '1',
        'only.height': '2',
        'only.filled': True,
      },
      Page(Layer(Circle()), only=Box(1, 2, True)),
    ),
    (
      {'shape': 'pile', 'shape.weights': '(1,2e-1,)', 'shape.at': '3,4'},
      Page(Layer(Circle()), shape=Pile(weights=(1.0, 0.2), at=(3, 4))),
    ),
    (
      {
        'shape': 'pile',
        'shape.shapes': '(circle, pile)',
        'shape.shapes.0.radius': '5',
        'shape.shapes.1.shapes': 'circle',
      },
      Page(
        Layer(Circle()), shape=Pile(shapes=(Circle(5.0), Pile((Circle(),))))
      ),
    ),
  ],
)
def test_an_override_equals_building_directly(overrides, expected):
  assert override(PAGE, overrides) == expected


def test_fields_beside_the_changed_one_keep_their_values():
  page = Page(
    Layer(Box(3, 4, True), 5), Pile((Circle(2.0), Circle(3.0))), 'old'
  )
  changed = override(
    page, {'layer.shape.width': '7', 'shape.shapes.1.radius': '9'}
  )
  assert changed == Page(
    Layer(Box(7, 4, True), 5), Pile((Circle(2.0), Circle(9.0))), 'old'
  )


def test_switching_a_part_starts_from_the_defaults_of_its_class():
  page = Page(Layer(Circle(7.0)))
  assert override(page, {'layer.shape': 'circle'}).layer.shape == Circle()


@pytest.mark.parametrize(
  'overrides, words',
  [
    ({'titel': 'x'}, ['titel does not exist', 'Did you mean title?', 'limit']),
    (
      {'layer.shape.radios': '1'},
      ['layer.shape.radios', 'mean layer.shape.radius?', 'Circle'],
    ),
    ({'layer.parent': 'x'}, ['layer.parent does not exist', 'shape, width']),
    ({'limit': 'few'}, ["limit = 'few' is not an int or none"]),
    ({'limit': '1.5'}, ["limit = '1.5' is not an int"]),
    ({'layer.shape.radius': 'nan'}, ['layer.shape.radius', 'finite float']),
    ({'layer.shape.radius': '1e999'}, ['layer.shape.radius', 'finite float']),
    (
      {'layer.shape.radius': '-1'},
      ['layer.shape (Circle)', 'a radius of -1.0 is too small'],
    ),
    (
      {'shape': 'box'},
      ['shape.width and shape.height', '--config.shape.width=8'],
    ),
    ({'shape': 'boks'}, ['shape = boks', 'mean Box?', 'Circle, Pile, none']),
    ({'shape': 'shape'}, ['shape = shape', 'Box, Circle, Pile, none']),
    ({'only': 'pile'}, ['only = pile', 'Box, Circle, none']),
    ({'shape.width': '1'}, ['shape is none', '--config.shape=circle']),
    ({'limit.x': '1'}, ['limit.x does not exist', '--config.limit=VALUE']),
    ({'title': True}, ['title was given no value']),
    (
      {'shape': 'pile', 'shape.at': '1,2,3'},
      ["shape.at = '1,2,3'", "'(8,8)'"],
    ),
    ({'shape': 'pile', 'shape.at': '1,x'}, ["shape.at.1 = 'x'", 'an int']),
    (
      {'shape': 'pile', 'shape.shapes': 'circle', 'shape.shapes.1': 'box'},
      ['shape.shapes.1 does not exist', 'tuple of 1'],
    ),
    (
      {
        'only': 'Box',
        'only.width': '1',
        'only.height': '2',
        'only.filled': 'maybe',
      },
      ["only.filled = 'maybe' is not a bool", 'as true'],
    ),
  ],
)
def test_a_mistake_is_named_with_its_field_and_what_would_do(overrides, words):
  with pytest.raises(ValueError) as error:
    override(PAGE, overrides)
  for word in words:
    assert word in str(error.value)


@pytest.mark.parametrize(
  'page',
  [
    PAGE,
    Page(Layer(Pile((Circle(2.0), Box(1, 2)), (0.5, 1.0))), Box(1, 2), 'x', 3),
  ],
)
def test_json_comes_back_as_it_went(page):
  assert from_json(to_json(page), Page) == page


def test_json_names_each_part_and_fills_in_defaults():
  assert to_json(Box(1, 2)) == {
    'part': 'Box',
    'width': 1,
    'height': 2,
    'filled': False,
  }
  assert from_json({'part': 'Box', 'width': 1, 'height': 2}, Shape) == Box(1, 2)


@pytest.mark.parametrize(
  'data, words',
  [
    ({'part': 'Sphere'}, ['Sphere', 'Box, Circle, Pile']),
    ({'radius': 2.0}, ['config = None', 'Circle']),
    ({'part': 'Circle', 'radios': 2.0}, ['radios', 'Did you mean radius?']),
    ({'part': 'Circle', 'radius': '2'}, ["radius = '2' is not a finite float"]),
    ({'part': 'Circle', 'radius': float('inf')}, ['radius = inf']),
    ({'part': 'Circle', 'radius': True}, ['radius = True']),
    ({'part': 'Box', 'width': 1}, ['Box also needs height']),
    ({'part': 'Box', 'width': 1.5, 'height': 2}, ['width = 1.5 is not an int']),
    ({'part': 'Pile', 'at': [1]}, ['at = [1]']),
    ([], ['config = []', 'Circle']),
    (3, ['config = 3']),
    (
      {'part': 'Pile', 'shapes': [{'part': 'Circle', 'radius': 'x'}]},
      ["shapes.0.radius = 'x'"],
    ),
  ],
)
def test_json_that_cannot_be_read_names_the_field(data, words):
  with pytest.raises(ValueError) as error:
    from_json(data, Shape)
  for word in words:
    assert word in str(error.value)
