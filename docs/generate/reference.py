"""The reference pages of the documentation, generated from the code that they describe.

In:  the program itself: its commands, records, settings, policies and tables.
Out: pages in Markdown by path. No option, default or field is written here by hand.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
import yaml
from described import code, fields_of, row_of, table

from btx_core.checkpoints.families import FAMILIES
from btx_core.mixing.recipe import MixRecipe
from btx_core.training.fitting import OPEN
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from pipelines.cli import app as command_line
from pipelines.cli.commands import ANSWERS, ARRAYS
from pipelines.workspace.placement import MachineSettings, StageSettings
from pipelines.workspace.recipe_reader import EvaluateRecipe
from pipelines.workspace.settings_file import (
    DEFAULT_SETTINGS,
    CostSettings,
    LineSettings,
    LogSettings,
    OpenLineageSettings,
    RaySettings,
    RegistrySettings,
)
from pipelines.workspace.workspace import SHIPPED_FACTS
from registry.records.evidence import EVIDENCE, Evidence
from registry.records.own_facts import FactType
from registry.records.schemas import published

ROOT = Path(__file__).parents[2]
PACKAGES = ("btx_core", "registry", "pipelines")
RECIPES = {
    "train": (TrainRecipe, "How `btx train` trains a branch."),
    "mix": (MixRecipe, "How the experts are composed."),
    "tune": (TuneRecipe, "How the composed model is tuned."),
    "evaluate": (EvaluateRecipe, "How experts and builds are measured."),
}
SETTINGS = {
    "registry": RegistrySettings,
    "machine": MachineSettings,
    "machine.train, machine.tune, machine.evaluate": StageSettings,
    "ray": RaySettings,
    "log": LogSettings,
    "openlineage": OpenLineageSettings,
    "cost": CostSettings,
    "line.NAME": LineSettings,
}
# Variables of the environment; one that the code reads and that is missing here stops the build.
ENVIRONMENT = {
    "BTX_WORKSPACE": "the workspace, in place of the current folder",
    "BTX_REGISTRY_URL": "the registry's database, in place of `[registry] url`",
    "BTX_ACTOR": "who acts, in place of the account's name",
    "BTX_KEY_FILE": "your private key, in place of `~/.config/btx/keys/NAME.pem`",
    "BTX_KEY_PASSPHRASE": "the passphrase of that key",
    "BTX_MODEL_KEY_FILE": "the key that `btx export --sign` signs with",
    "BTX_HEADS": "the folder for heads of the log, in place of `~/.config/btx/heads`",
    "BTX_LOG": "`debug`, `info`, `warning` or `error`: what is said on stderr beside answers",
    "BTX_EXPERT_PARALLEL": "older form of `[machine] expert_parallel`",
    "BTX_RECOMPUTE": "older form of `[machine] recompute`",
}
# Set by the program for the processes that it starts.
OWN_ENVIRONMENT = {"BTX_COMMAND", "BTX_EXECUTOR", "BTX_KEY", "BTX_WATCHED"}


def pages() -> dict[str, str]:
    """Return every generated page by its path below docs/."""
    return {
        "reference/commands.md": commands(),
        "reference/recipes.md": recipes(),
        "reference/settings.md": settings(),
        "reference/own-facts.md": own_facts(),
        "reference/evidence.md": evidence(),
        "reference/policies.md": policies(),
        "reference/schemas.md": schemas(),
        "reference/families.md": families(),
    }


def commands() -> str:
    """Return the page of all commands: usage, description, arguments, options, answer."""
    described = command_line.__doc__ or ""
    status = described.partition("Exit status: ")[2].partition("\n\n")[0]
    parts = [
        "# Commands\n",
        f"Exit status: {' '.join(status.split())}\n",
        "With `--json` an answer is one document on stdout; its schema is linked at each command. "
        "The options before the command, such as `btx --verbose`, are those of `btx` itself.\n",
    ]
    whole = typer.main.get_command(command_line.app)
    parts += ["## btx\n", _parameters(whole)]
    for name, command in leaves(whole, ()):
        parts += [f"## btx {name}\n", *_described(command.help or ""), _parameters(command)]
        answers = [key for key in ANSWERS if key == name or key.startswith(f"{name} ")]
        parts += [_answer(key) for key in answers if not _belongs_elsewhere(key, name, whole)]
    return "\n".join(parts)


def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its name; typer's own classes."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path), command
        return
    for name, sub in inner.items():
        yield from leaves(sub, (*path, name))


def _belongs_elsewhere(key: str, name: str, whole: Any) -> bool:
    """Say whether an answer's key is that of a longer command's name."""
    others = [other for other, _ in leaves(whole, ()) if len(other) > len(name)]
    return any(key == other or key.startswith(f"{other} ") for other in others)


def _described(text: str) -> Iterator[str]:
    """Yield the paragraphs of a command's help, its examples as code."""
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith("Example: "):
            yield f"```\n{' '.join(paragraph.removeprefix('Example: ').split())}\n```\n"
        else:
            yield f"{' '.join(paragraph.split())}\n"


def _parameters(command: Any) -> str:
    rows = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        options = ", ".join(parameter.opts)
        argument = not options.startswith("-")
        name = (parameter.metavar or options.upper()) if argument else options
        value = "" if argument else (parameter.metavar or "")
        default = parameter.default
        shown = "" if default in (None, False, True) or callable(default) else str(default)
        needed = "required" if parameter.required else code(shown)
        text = getattr(parameter, "help", None) or ""
        rows.append([code(f"{name} {value}".strip()), needed, text])
    return table(("argument or option", "default", "what it says"), rows) if rows else ""


def _answer(key: str) -> str:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", ANSWERS[key].__name__).lower()
    many = "an array of " if key in ARRAYS else ""
    path = f"answers/{name}.json"
    link = f"[{ANSWERS[key].__name__}](../schemas/{path})" if path in published() else "records"
    return f"`btx {key} --json` prints {many}{link}.\n"


def recipes() -> str:
    """Return the page of the recipes' keys."""
    left_open = ", ".join(code(key) for key in OPEN)
    parts = [
        "# Recipes\n",
        "The tables `[recipe.train]`, `[recipe.mix]`, `[recipe.tune]` and `[recipe.evaluate]` in "
        "`btx.toml`, or in a file for `--recipe` of `btx train` and `btx rebuild`. What is not "
        "named keeps its default. "
        f"{left_open} are chosen by the seed's size, the text and the memory, unless they are "
        "named.\n",
    ]
    for name, (recipe, purpose) in RECIPES.items():
        rows = []
        for one in fields_of(recipe):
            chosen = name in ("train", "tune") and one.name in OPEN
            shown = "chosen" if chosen else code(one.default)
            rows.append([code(one.name), one.type, shown, one.text])
        head = ("key", "type", "default", "what it is")
        parts += [f"## [recipe.{name}]\n", purpose + "\n", table(head, rows)]
    return "\n".join(parts)


def settings() -> str:
    """Return the page of the settings in btx.toml and of the environment's variables."""
    parts = [
        "# Settings\n",
        "`btx init` writes this `btx.toml`:\n",
        f"```toml\n{DEFAULT_SETTINGS}```\n",
        "The tables `[recipe.*]` are described under [Recipes](recipes.md).\n",
    ]
    for name, section in SETTINGS.items():
        rows = [
            [code(one.name), one.type, code(one.default), one.text] for one in fields_of(section)
        ]
        text = (section.__doc__ or "").strip().splitlines()[0]
        parts += [f"## [{name}]\n", text + "\n", table(("key", "type", "default", ""), rows)]
    parts += ["## Environment\n", table(("variable", "says"), _environment())]
    return "\n".join(parts)


def _environment() -> Iterator[list[str]]:
    """Yield each variable that the code reads; raise for one that is not described."""
    read = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            read |= set(re.findall(r"\bBTX_[A-Z_]+[A-Z]\b", path.read_text()))
    unknown = read - set(ENVIRONMENT) - OWN_ENVIRONMENT
    if unknown:
        raise ValueError(f"docs/generate/reference.py describes no {', '.join(sorted(unknown))}")
    for name, text in ENVIRONMENT.items():
        if name in read:
            yield [code(name), text]


def own_facts() -> str:
    """Return the page of the company's own facts, as `facts.yaml` ships them."""
    shipped = yaml.safe_load(SHIPPED_FACTS.read_text())
    types = ", ".join(code(str(value)) for value in _values(FactType))
    rows = [
        [
            code(name),
            ", ".join(said.get("kinds", ())),
            said.get("type", "text"),
            "yes" if said.get("public") else "",
            said.get("title", ""),
        ]
        for name, said in shipped.items()
    ]
    head = ("fact", "of", "type", "in public reports", "is called")
    return "\n".join(
        [
            "# Own facts\n",
            f"`facts.yaml` of a workspace says which facts of its own a company states. Types: "
            f"{types}. `btx init` writes this file, which is the company's from then on:\n",
            table(head, rows),
            f"```yaml\n{SHIPPED_FACTS.read_text()}```\n",
        ]
    )


def _values(kind: Any) -> list[Any]:
    """Return the words of an enumeration or a Literal."""
    return list(get_args(kind)) or list(kind)


def evidence() -> str:
    """Return the page of the facts that a policy may ask about."""
    parts = [
        "# Evidence\n",
        "What a policy's expression reads as `evidence.NAME`, for each kind of candidate. Every "
        "fact is always there; one that is unknown is null. How to write an expression: "
        "[policies](../how-to/policies.md).\n",
    ]
    for kind, record in EVIDENCE.items():
        parts += [f"## {kind}\n", _first_line(record), _fields(record)]
    inner = [one for one in _inner() if one not in EVIDENCE.values() and one is not Evidence]
    for record in inner:
        parts += [f"## {record.__name__}\n", _first_line(record), _fields(record)]
    return "\n".join(parts)


def _first_line(record: type[Any]) -> str:
    return (record.__doc__ or "").strip().splitlines()[0] + "\n"


def _fields(record: type[Any]) -> str:
    rows = [[code(one.name), one.type, one.text] for one in fields_of(record)]
    return table(("fact", "type", "what it is"), rows)


def _inner() -> list[type[Any]]:
    """Return the records that evidence is made of, in the order of their module."""
    from pydantic import BaseModel

    from registry.records import evidence as module

    classes = [value for value in vars(module).values() if isinstance(value, type)]
    own = [one for one in classes if one.__module__ == module.__name__]
    return [one for one in own if issubclass(one, BaseModel)]


def policies() -> str:
    """Return the page of the policies that `btx init` writes, with their rules."""
    parts = [
        "# Policies\n",
        "What `btx init` lays down in `policies/`. A company changes them, adds its own, and "
        "adopts the set with `btx policy adopt`.\n",
    ]
    for path in sorted((ROOT / "policies").glob("*.yaml")):
        said = yaml.safe_load(path.read_text())
        match = said["match"]
        what = ", ".join(match.get("kinds", ["every kind"]))
        enforcement = said.get("enforcement", "deny")
        waivable = "can be waived" if said.get("waivable") else "cannot be waived"
        rows = [
            [code(rule["rule"]), rule["message"], rule["remedy"]] for rule in said["validations"]
        ]
        parts += [
            f"## {said['name']}\n",
            f"{said['why']}\n",
            f"Gates: {', '.join(match['gates'])}. Of: {what}. Enforcement: {enforcement}; "
            f"{waivable}.\n",
            table(("rule", "says", "remedy"), rows),
        ]
    return "\n".join(parts)


def schemas() -> str:
    """Return the page that lists every published JSON Schema."""
    groups: dict[str, list[str]] = {}
    for path, schema in published().items():
        group, name = path.split("/")
        text = str(schema.get("description", "")).split("\n\n")[0]
        groups.setdefault(group, []).append(row_of([f"[{name}](../schemas/{path})", text]))
    parts = [
        "# JSON Schema\n",
        "Derived from the records that the program itself uses. Keys may be added in later "
        "versions, and are never renamed.\n",
    ]
    for group, rows in groups.items():
        parts += [f"## {group}\n", "| schema | of |\n| --- | --- |", *rows, ""]
    return "\n".join(parts)


def families() -> str:
    """Return the page of the model families that can be mixed."""
    rows = [
        [
            code(family.dense),
            code(family.layout.model_type),
            "; ".join(refusal.reason for refusal in family.refusals),
        ]
        for family in FAMILIES
    ]
    return "\n".join(
        [
            "# Model families\n",
            "A seed of one of these model types (`model_type` in its `config.json`) can be mixed. "
            "The mixture computes the same function, which a test shows for each by mixing copies "
            "of one expert and comparing logits. Where several mixtures are named, the first that "
            "the model's settings do not exclude is taken.\n",
            table(("dense model", "mixture", "excluded by"), rows),
        ]
    )
