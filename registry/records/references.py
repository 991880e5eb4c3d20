"""Names of registered things: `kind/name@version`, builds `build/7`.

In:  text.  Out: a Reference, which prints the same text.  Whether it is registered is the catalogue's to say.
"""

import re
from dataclasses import dataclass

from registry.errors import Invalid

KINDS = ("seed", "data", "expert", "snapshot", "build", "evaluation", "export")
# Lower case only: two names that differ in case are one folder on some file systems.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, order=True)
class Reference:
    """kind, name ("" for builds, which have a number only) and version (None: the newest)."""

    kind: str
    name: str
    version: int | None = None

    @classmethod
    def parse(cls, text: "str | Reference", kind: str | None = None) -> "Reference":
        return parse(text, kind)

    def __str__(self) -> str:
        if self.kind == "build":
            return "build" if self.version is None else f"build/{self.version}"
        return f"{self.kind}/{self.name}" + ("" if self.version is None else f"@{self.version}")

    @property
    def path(self) -> str:
        """`math/1`, `7`: where the thing lies under its kind's folder."""
        return "/".join(part for part in (self.name, str(self.version or "")) if part)


def parse(text: "str | Reference", kind: str | None = None) -> Reference:
    """Read a reference; with `kind`, its name alone will do. Raises Invalid, saying what a reference looks like."""
    if isinstance(text, Reference):
        return text
    head, slash, rest = text.partition("/")
    if not slash and kind is None and text != "build":
        raise _unreadable(text, "kind/name@version, such as expert/math@1")
    if not slash:
        head, rest = ("build", "") if text == "build" else (str(kind), text)
    if head not in KINDS:
        raise _unreadable(text, f"one of {', '.join(KINDS)} before the stroke")
    if kind is not None and head != kind:
        raise _unreadable(text, f"a reference to {kind}")
    return _build(text, rest) if head == "build" else _named(text, head, rest)


def _build(text: str, number: str) -> Reference:
    if number and not _VERSION.fullmatch(number):
        raise _unreadable(text, "a number, such as build/7")
    return Reference("build", "", int(number) if number else None)


def _named(text: str, kind: str, rest: str) -> Reference:
    name, at, version = rest.partition("@")
    if not _NAME.fullmatch(name):
        raise _unreadable(
            text, f"{kind}/name with a name of a-z, 0-9, '.', '_', '-', at most 64 long"
        )
    if at and not _VERSION.fullmatch(version):
        raise _unreadable(text, f"a version from 1 on, such as {kind}/{name}@1")
    return Reference(kind, name, int(version) if at else None)


def _unreadable(text: str, expected: str) -> Invalid:
    return Invalid(
        "reference",
        found=repr(text),
        expected=expected,
        next="btx list seeds|data|experts|builds says what there is",
    )
