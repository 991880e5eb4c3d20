"""JSON documents whose form an outside schema decides, and how they are written.

In: a document. Out: text. What each document says is left to the module of its format.
"""

import json
from typing import Any

from registry.digest import canonical_json

# A JSON object of an outside schema: its values are of whatever types that schema says.
Document = dict[str, Any]


def written(document: Document) -> str:
    """Return a document as the text of a file, indented so that two versions can be compared."""
    return json.dumps(document, indent=1) + "\n"


def number_text(value: float) -> str:
    """Return a number as JSON writes it, for schemas that want numbers as strings."""
    return canonical_json(value).decode()
