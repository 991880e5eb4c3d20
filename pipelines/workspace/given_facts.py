"""Own facts as a user gives them: on the command line, in a YAML file, as attached files.

Values as they were typed; what they mean is the schema's, in `facts.yaml`, to say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from registry.errors import Invalid, NotFound
from registry.governance.policy_files import read_strict_yaml
from registry.records.own_facts import FactSchema, FactType


@dataclass(frozen=True)
class GivenFacts:
    """What is stated of what a command registers.

    Attributes:
        pairs: KEY=VALUE, each as typed.
        file: a YAML file of keys and values; a file's value is its path, from that file.
        attached: KEY=FILE, each as typed.
    """

    pairs: tuple[str, ...] = ()
    file: Path | None = None
    attached: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        """Whether anything is stated."""
        return bool(self.pairs or self.file or self.attached)

    def values(self, schema: FactSchema) -> tuple[dict[str, Any], dict[str, Path]]:
        """Return the values by key, as typed, and the attached files by key.

        Args:
            schema: says which of the facts in a YAML file are files.

        Raises:
            Invalid: for what is no pair, and for a key that is stated twice.
            NotFound: for a file that is not there.
        """
        values: dict[str, Any] = {}
        files: dict[str, Path] = {}
        for key, value in _from_yaml(self.file).items():
            definition = schema.facts.get(key)
            if definition is not None and definition.type == FactType.FILE and self.file:
                files[key] = self.file.parent / str(value)
            else:
                values[key] = value
        for key, value in _split(self.pairs, "--fact"):
            _require_new(key, values)
            values[key] = value
        for key, value in _split(self.attached, "--attach"):
            _require_new(key, files)
            files[key] = Path(value)
        for key, path in files.items():
            _require_new(key, values)
            if not path.is_file():
                raise NotFound(
                    f"attachment {key}",
                    found=f"no file {path}",
                    expected="a file",
                    next="check the path",
                )
        return values, files


def _from_yaml(path: Path | None) -> Mapping[str, Any]:
    """Return the keys and values of a YAML file. Any: each value is of its fact's own type."""
    if path is None:
        return {}
    if not path.is_file():
        raise NotFound(
            "--facts", found=f"no file {path}", expected="a YAML file", next="check the path"
        )
    try:
        read = read_strict_yaml(path)
    except (yaml.YAMLError, ValueError) as error:
        raise Invalid(
            str(path), found=" ".join(str(error).split())[:200], expected="YAML", next="fix it"
        ) from None
    if not isinstance(read, dict):
        raise Invalid(
            str(path), found=f"{read!r:.80}", expected="a mapping of facts", next="write KEY: VALUE"
        )
    return read


def _split(pairs: Sequence[str], option: str) -> list[tuple[str, str]]:
    split = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Invalid(option, found=pair, expected="KEY=VALUE", next="btx fact --help")
        split.append((key.strip(), value))
    return split


def _require_new(key: str, stated: Mapping[str, object]) -> None:
    if key in stated:
        raise Invalid(
            f"fact {key}", found="two values", expected="one", next="several texts: a,b,c"
        )
