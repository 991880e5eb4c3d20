"""Names of registered things: `kind/name@version`; builds are `build/7`.

In:  text.  Out: a Reference, which prints the same text.
Whether it is registered is for the catalogue to say.
"""

import re
from dataclasses import dataclass

from registry.errors import Invalid
from registry.records.kinds import KINDS, Kind

# Lower case only: two names that differ in case are one folder on some file systems.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
NAMES = "a name of a-z, 0-9, '.', '_', '-', at most 64 long"
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, order=True)
class Reference:
    """The name of a version.

    Attributes:
        kind: what it is.
        name: its name; empty for builds, which have a number only.
        version: its number; None means the newest.
    """

    kind: Kind
    name: str
    version: int | None = None

    def __str__(self) -> str:
        if self.kind == Kind.BUILD:
            return "build" if self.version is None else f"build/{self.version}"
        number = "" if self.version is None else f"@{self.version}"
        return f"{self.kind}/{self.name}{number}"

    @property
    def path(self) -> str:
        """Where the version lies in its kind's folder: `math/1`, or `7` for a build."""
        return "/".join(part for part in (self.name, str(self.version or "")) if part)

    @property
    def label(self) -> str:
        """The reference without its kind, such as `math@1`."""
        return str(self).partition("/")[2]


def parse(text: str | Reference, kind: str | None = None) -> Reference:
    """Read a reference.

    Args:
        text: such as `expert/math@1`, `data/math` or `build/7`.
        kind: the kind that is expected; then the name alone will do.

    Raises:
        Invalid: saying what a reference looks like.
    """
    if isinstance(text, Reference):
        return text
    head, slash, rest = text.partition("/")
    if not slash and text == Kind.BUILD:
        head, rest = text, ""
    elif not slash and kind is not None:
        head, rest = kind, text
    elif not slash:
        raise _unreadable(text, "kind/name@version, such as expert/math@1")
    if head not in KINDS:
        raise _unreadable(text, _meant(head, rest))
    if kind is not None and head != kind:
        raise _unreadable(text, f"a reference to {kind}")
    return _build(text, rest) if head == Kind.BUILD else _named(text, Kind(head), rest)


def _meant(head: str, rest: str) -> str:
    """Say what stands in the place of a kind that there is not."""
    for kind in Kind:
        if head == kind.plural:
            return f"{kind}/{rest}"
    if head in ("", ".", "..", "~"):
        return "a reference such as data/math, not a path: what lies there is registered first"
    return f"one of {', '.join(Kind)} before the slash"


def _build(text: str, number: str) -> Reference:
    if number and not _VERSION.fullmatch(number):
        raise _unreadable(text, "a number, such as build/7")
    return Reference(Kind.BUILD, "", int(number) if number else None)


def _named(text: str, kind: Kind, rest: str) -> Reference:
    name, at, version = rest.partition("@")
    if not _NAME.fullmatch(name):
        raise _unreadable(text, f"{kind}/name with {NAMES}")
    if at and not _VERSION.fullmatch(version):
        raise _unreadable(text, f"a version from 1 on, such as {kind}/{name}@1")
    return Reference(kind, name, int(version) if at else None)


def require_name(what: str, name: str) -> None:
    """Raise Invalid for what could not stand in a reference, such as a line's name."""
    if not _NAME.fullmatch(name):
        raise Invalid(what, found=repr(name), expected=NAMES, next="choose another name")


def _unreadable(text: str, expected: str) -> Invalid:
    return Invalid(
        "reference",
        found=repr(text),
        expected=expected,
        next="btx list seeds|data|experts|builds says what there is",
    )
