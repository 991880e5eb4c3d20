"""Policy files: read, and checked before any gate is asked by them.

In:  a folder with one YAML file for each policy.  Out: policies whose expressions compile and name
facts that exist; an error that names the file and what is wrong with it.
Judging by policies is `policies`, their test cases are `policy_tests`.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from registry.digest import canonical_json
from registry.errors import Invalid, NotFound
from registry.governance.cel import expressions
from registry.governance.cel.shapes import Anything, Record
from registry.governance.policies import KINDS_BY_GATE, Policy, Validation, current_shape

LARGEST_FILE_BYTES = 1 << 18


def load(folder: Path) -> list[Policy]:
    """Read every policy of a folder.

    Args:
        folder: the folder with one YAML file per policy.

    Returns:
        The policies by name, their expressions compiled and their facts known.

    Raises:
        NotFound: if there is no such folder.
        Invalid: for a file that is not a sound policy, saying what is wrong with it.
    """
    if not folder.is_dir():
        raise NotFound(
            str(folder),
            found="no folder",
            expected="policies",
            next="btx init lays the default policies down",
        )
    for path in sorted(folder.iterdir()):
        # It looks like a policy, and no gate would be asked by it.
        if path.suffix != ".yaml" and path.suffix.lower() in (".yaml", ".yml"):
            raise _unsound(path, f"a name that ends in {path.suffix}", f"{path.stem}.yaml")
    return [_checked_policy(path) for path in sorted(folder.glob("*.yaml"))]


def read_strict_yaml(path: Path) -> object:
    """Read a YAML file without aliases, and without a key that is no text or stands there twice.

    Raises:
        YAMLError: for anything else.
    """
    try:
        # The loader is a SafeLoader: it makes plain values only.
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    # A date or a number that is none, bytes that are no text; lists without end in lists.
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from None


def _checked_policy(path: Path) -> Policy:
    policy = _parsed_policy(path)
    for gate in policy.match.gates:
        kinds = KINDS_BY_GATE[gate]
        if not set(policy.match.kinds) & set(kinds):
            raise _unsound(
                path,
                f"gate {gate} with kinds {', '.join(policy.match.kinds)}",
                f"gate {gate} asks about {', '.join(kinds)}",
            )
    for validation in policy.validations:
        try:
            _check_rule(policy, validation)
        except Invalid as error:
            raise _unsound(
                path, f"rule {validation.rule}: {error.found} in {error.subject}", error.expected
            ) from None
    return policy


def _check_rule(policy: Policy, validation: Validation) -> None:
    """Check that the rule's expressions compile and name facts that exist."""
    expression = expressions.compile_expression(validation.expression)
    in_message = expressions.check_template(validation.message)
    expressions.check_truth(expression)
    parameters = Record(dict.fromkeys(policy.parameters, Anything()))
    for kind in policy.match.kinds:
        evidence = current_shape(kind) or Anything()
        for used in (expression, *in_message):
            expressions.check_names(used, {"evidence": evidence, "parameters": parameters})


def _parsed_policy(path: Path) -> Policy:
    size = path.stat().st_size
    if size > LARGEST_FILE_BYTES:
        raise _unsound(path, f"{size} bytes", f"at most {LARGEST_FILE_BYTES}")
    try:
        policy = Policy.model_validate(read_strict_yaml(path))
        # As it was read: `to_json` would make a text of a date, and null of what is no number.
        canonical_json(policy.model_dump())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _unsound(path, f"{field}: {str(first['input'])[:80]}", first["msg"]) from None
    except Invalid as error:
        raise _unsound(path, error.found, error.expected) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _unsound(path, " ".join(str(error).split())[:200], "YAML") from None
    if policy.name != path.stem:
        raise _unsound(path, f"name {policy.name}", path.stem)
    return policy


def _unsound(path: Path, found: str, expected: str) -> Invalid:
    return Invalid(
        f"policy file {path}",
        found=found,
        expected=expected,
        next="fix the file, then run btx policy test",
    )


class _StrictLoader(yaml.SafeLoader):
    """YAML without aliases, which can grow without bound, and without a key that is there twice.

    Of two equal keys the later one would win unseen.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read here")
        return super().compose_node(parent, index)

    # Any: a value of a YAML mapping may be of any type.
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str):
                raise yaml.YAMLError(f"key {key!r} is no text: quote it")
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} twice")
        return super().construct_mapping(node, deep)
