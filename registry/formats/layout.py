"""The templates that reports for people are laid out with.

In: the name of a template and the values that it shows. Out: text, in which every value is clean of
control characters and escaped for its format, whether or not the template's author thought of it.
What the values are is decided by the callers.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from registry.formats.tables import Fields, Pointer, Table

MARKDOWN_MARKS = "\\|`[]*"
INVISIBLE = ("Cc", "Cf", "Cs")


def plain(text: str) -> str:
    """Return the text as one line without control and direction characters.

    Those could make a page say something else than what is recorded.
    """
    line = " ".join(text.split())
    return "".join(mark for mark in line if unicodedata.category(mark) not in INVISIBLE)


def markdown_text(text: str) -> Markup:
    """Return recorded words as one line of Markdown without HTML, table or link marks."""
    escaped = "".join(f"\\{mark}" if mark in MARKDOWN_MARKS else mark for mark in plain(text))
    return Markup(escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def html_page(template: str, **values: object) -> str:
    """Render an HTML template.

    Args:
        template: the file's name under registry/formats/templates.
        values: what the template shows, by name.

    Returns:
        The page. A value that the template names and nobody gave raises jinja2.UndefinedError.
    """
    return _HTML.get_template(template).render(values)


def markdown_page(template: str, **values: object) -> str:
    """Render a Markdown template.

    Args:
        template: the file's name under registry/formats/templates.
        values: what the template shows, by name.

    Returns:
        The page. A value that the template names and nobody gave raises jinja2.UndefinedError.
    """
    return _MARKDOWN.get_template(template).render(values)


def text_page(template: str, **values: object) -> str:
    """Render a template of plain text.

    Args:
        template: the file's name under registry/formats/templates.
        values: what the template shows, by name.

    Returns:
        The text. A value that the template names and nobody gave raises jinja2.UndefinedError.
    """
    return _TEXT.get_template(template).render(values)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _cell_class(table: Table, column: int) -> str:
    names = []
    if column in table.numeric:
        names.append("n")
    if column in table.short_columns:
        names.append("firm")
    return " ".join(names)


def _cells(texts: Iterable[str]) -> Markup:
    return Markup(" | ").join(markdown_text(text) for text in texts)


def _ruler(table: Table) -> Markup:
    columns = range(len(table.columns))
    return Markup(" | ".join("---:" if column in table.numeric else "---" for column in columns))


def _cleaned_for_html(value: object) -> object:
    # Markup is what a macro or filter made of values that went through here before.
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _cleaned_for_markdown(value: object) -> object:
    return value if isinstance(value, Markup) else markdown_text(str(value))


def _cleaned_for_text(value: object) -> object:
    return value if isinstance(value, Markup) else Markup(plain(str(value)))


def _environment(
    finalize: Callable[[object], object],
    # Jinja calls a filter with whatever the template gives it.
    filters: Mapping[str, Callable[..., Any]],
) -> Environment:
    environment = Environment(
        loader=PackageLoader("registry.formats"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    environment.tests.update(
        table=lambda part: isinstance(part, Table),
        fields=lambda part: isinstance(part, Fields),
        pointer=lambda part: isinstance(part, Pointer),
    )
    return environment


_HTML = _environment(_cleaned_for_html, {"anchor": _anchor, "cell_class": _cell_class})
_MARKDOWN = _environment(_cleaned_for_markdown, {"cells": _cells, "ruler": _ruler})
_TEXT = _environment(_cleaned_for_text, {})
