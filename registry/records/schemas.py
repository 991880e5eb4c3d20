"""Publish the JSON Schema of every record that scripts, policies and other programs read.

In:  the records.  Out: one schema a record, as files below a folder:
`python -m registry.records.schemas docs/schemas`, which `make schemas` runs.
The schemas are derived, never written by hand; a test compares the published files with them.
"""

import json
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from registry.records import answers
from registry.records.answers.answer import Answer
from registry.records.base import Record
from registry.records.events import BODIES
from registry.records.evidence import EVIDENCE
from registry.records.facts import FACTS
from registry.records.officer_answers import OFFICER_PAGES
from registry.records.pages import PAGES


def published() -> dict[str, dict[str, Any]]:
    """Return every schema by its path, such as `facts/expert.json`."""
    schemas = {}
    for group, records in _groups().items():
        for name, record in records.items():
            schemas[f"{group}/{name}.json"] = record.model_json_schema(mode="serialization")
    return schemas


def write(folder: Path) -> None:
    """Write every schema below the folder, and remove those that are no longer published."""
    schemas = published()
    for path in folder.rglob("*.json"):
        if path.relative_to(folder).as_posix() not in schemas:
            path.unlink()
    for name, schema in schemas.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text_of(schema), encoding="utf-8")


def text_of(schema: Mapping[str, Any]) -> str:
    """Return a schema as it is published."""
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def _groups() -> dict[str, dict[str, type[Record]]]:
    return {
        "facts": {str(kind): record for kind, record in FACTS.items()},
        "evidence": {str(kind): record for kind, record in EVIDENCE.items()},
        "events": dict(BODIES),
        "answers": dict(_answers()),
        "pages": {**PAGES, **OFFICER_PAGES},
    }


def _answers() -> Iterator[tuple[str, type[Record]]]:
    """Yield the answers of commands; their parts are inside them."""
    for module in pkgutil.iter_modules(answers.__path__, f"{answers.__name__}."):
        for name, value in vars(import_module(module.name)).items():
            whole = name.endswith(("Answer", "Row")) and name not in ("Answer", "Row")
            if isinstance(value, type) and issubclass(value, Answer) and whole:
                yield re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower(), value


if __name__ == "__main__":
    write(Path(sys.argv[1]))
