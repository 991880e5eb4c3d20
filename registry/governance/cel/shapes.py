"""Shapes: which facts evidence holds, and of which type each is.

In:  a shape's JSON form, plain values.
Out: typed shapes; the first value that is not of its shape.
The JSON form is what every verdict keeps of the shapes that it was judged by, so it never changes:

    "text", "number", "truth"    one value of that type
    "any"                        not described further
    [shape]                      a list
    {"*": shape}                 a mapping whose keys are names, such as domains
    {"name": shape, ...}         a record, whose keys are fixed

A value may always be null: that is how evidence says that a fact is not known.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from registry.errors import Invalid

ShapeJson: TypeAlias = str | Sequence["ShapeJson"] | Mapping[str, "ShapeJson"]

ANY_NAME = "*"
_LONGEST_VALUE_SHOWN = 60


@dataclass(frozen=True)
class Text:
    """A text."""

    keyword: ClassVar[str] = "text"
    title: ClassVar[str] = "a text"


@dataclass(frozen=True)
class Number:
    """A number."""

    keyword: ClassVar[str] = "number"
    title: ClassVar[str] = "a number"


@dataclass(frozen=True)
class Truth:
    """True or false."""

    keyword: ClassVar[str] = "truth"
    title: ClassVar[str] = "true or false"


@dataclass(frozen=True)
class Anything:
    """A value of which nothing is known."""

    keyword: ClassVar[str] = "any"
    title: ClassVar[str] = "a value"


@dataclass(frozen=True)
class ListOf:
    """A list.

    Attributes:
        element: the shape of each of its elements.
    """

    title: ClassVar[str] = "a list"
    element: "Shape"


@dataclass(frozen=True)
class MappingOf:
    """A mapping with any names as keys.

    Attributes:
        element: the shape of each of its values.
    """

    title: ClassVar[str] = "a mapping"
    element: "Shape"


@dataclass(frozen=True)
class Record:
    """A mapping with fixed keys.

    Attributes:
        members: the shape of each value, by key.
    """

    title: ClassVar[str] = "a mapping"
    members: Mapping[str, "Shape"]


Scalar: TypeAlias = Text | Number | Truth | Anything
Shape: TypeAlias = Scalar | ListOf | MappingOf | Record

_SCALARS: Mapping[str, Scalar] = {
    scalar.keyword: scalar for scalar in (Text(), Number(), Truth(), Anything())
}


def from_json(form: ShapeJson) -> Shape:
    """Read a shape from its JSON form.

    Raises:
        Invalid: for anything that the form described above does not allow.
    """
    if isinstance(form, str) and form in _SCALARS:
        return _SCALARS[form]
    if isinstance(form, Mapping):
        if ANY_NAME not in form:
            return Record({name: from_json(member) for name, member in form.items()})
        if len(form) == 1:
            return MappingOf(from_json(form[ANY_NAME]))
    elif isinstance(form, list | tuple) and len(form) == 1:
        return ListOf(from_json(form[0]))
    raise Invalid(
        "shape of a fact",
        found=f"{form!r:.80}",
        expected=f'one of {", ".join(_SCALARS)}, [shape], {{"*": shape}} or {{name: shape}}',
    )


def to_json(shape: Shape) -> ShapeJson:
    """Return a shape's JSON form, which `from_json` reads."""
    if isinstance(shape, ListOf):
        return [to_json(shape.element)]
    if isinstance(shape, MappingOf):
        return {ANY_NAME: to_json(shape.element)}
    if isinstance(shape, Record):
        return {name: to_json(member) for name, member in shape.members.items()}
    return shape.keyword


def mismatch(value: object, shape: Shape, path: str = "evidence") -> str | None:
    """Find the first value that is not of its shape.

    A rule that says what must not be, such as a status that is not "withdrawn", is true of any
    value of another type. This is why types are checked before rules are asked.

    Args:
        value: plain JSON.
        shape: what the value should be. A key that a record does not name is not checked.
        path: what the value is called in the answer.

    Returns:
        A sentence such as `evidence.bytes is "x", not a number`; None if every value is null or of
        its shape.
    """
    if value is None or isinstance(shape, Anything):
        return None
    if isinstance(shape, ListOf) and isinstance(value, list | tuple):
        for position, item in enumerate(value):
            problem = mismatch(item, shape.element, f"{path}[{position}]")
            if problem is not None:
                return problem
        return None
    if isinstance(shape, MappingOf | Record) and isinstance(value, Mapping):
        for key, item in value.items():
            problem = mismatch(item, _described(shape, key), f"{path}.{key}")
            if problem is not None:
                return problem
        return None
    if _is_scalar_of(value, shape):
        return None
    return f"{path} is {json.dumps(value)[:_LONGEST_VALUE_SHOWN]}, not {shape.title}"


def _described(shape: MappingOf | Record, key: str) -> Shape:
    if isinstance(shape, MappingOf):
        return shape.element
    return shape.members.get(key, Anything())


def _is_scalar_of(value: object, shape: Shape) -> bool:
    if isinstance(shape, Text):
        return isinstance(value, str)
    if isinstance(shape, Truth):
        return isinstance(value, bool)
    if isinstance(shape, Number):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return False
