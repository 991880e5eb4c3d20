"""What a template shows is clean and escaped, whether or not its author thought of it."""

from html.parser import HTMLParser

import pytest
from jinja2 import Environment, PackageLoader, UndefinedError

from registry.formats import layout
from registry.formats.report import Chapter, Report
from registry.formats.sections import Section
from registry.formats.tables import Fields, Pointer, Table

HOSTILE = (
    '<script>alert(1)</script> " onload="x | [x](javascript:y) `z` \\ \n\n# a\x1b[31m\u202e\u200b'
)
HARMLESS = "a text as long as the hostile one, " * 3
PLACES = [
    "ref",
    "kind",
    "digest",
    "origin",
    "attention",
    "checks",
    "chapter",
    "about",
    "title",
    "needs",
    "sentence",
    "field name",
    "field",
    "pointer",
    "column",
    "cell",
    "missing",
]


def report_with(hostile: str) -> Report:
    """A report with a hostile text in one place; its overview and its law have the same parts."""

    def text(place: str) -> str:
        return HOSTILE if place == hostile else HARMLESS

    parts = (
        text("sentence"),
        Fields(((text("field name"), text("field")),)),
        Pointer(text("pointer")),
        Table((text("column"), "n"), ((text("cell"), "1"),), frozenset({1})),
    )
    sections = (
        Section(text("title"), "", parts, (text("missing"),)),
        Section(text("title"), text("needs"), parts, (text("missing"),)),
    )
    return Report(
        ref=text("ref"),
        kind=text("kind"),
        digest=text("digest"),
        origin=text("origin"),
        attention=(text("attention"),),
        checks=(text("checks"),),
        page_footer="build/1",
        chapters=(Chapter("part-1", text("chapter"), text("about"), sections),),
    )


def markup(page: str) -> list[tuple[str, tuple[str, ...]]]:
    """Every tag of a page with the names of its attributes."""
    tags: list[tuple[str, tuple[str, ...]]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, tuple(name for name, _ in attrs)))

    Tags().feed(page)
    return tags


def test_without_the_environment_the_same_template_lets_a_script_through() -> None:
    bare = Environment(loader=PackageLoader("registry.formats"), trim_blocks=True)
    bare.filters.update(layout._HTML.filters)
    bare.tests.update(layout._HTML.tests)
    page = bare.get_template("report.html.j2").render(report=report_with("cell"))
    assert "<script>" in page
    assert "\u202e" in page


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_text_adds_no_tag_and_no_attribute_to_the_page(place: str) -> None:
    page = layout.html_page("report.html.j2", report=report_with(place))
    clean = layout.html_page("report.html.j2", report=report_with("nowhere"))
    assert markup(page) == markup(clean)
    assert "alert(1)" in page
    for mark in ("\x1b", "\u202e", "\u200b"):
        assert mark not in page


@pytest.mark.parametrize("template", ["report.md.j2", "model-card.md.j2"])
@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_text_stays_one_line_of_words_in_markdown(template: str, place: str) -> None:
    def page(hostile: str) -> str:
        values = {"report": report_with(hostile), "front_matter": "", "loadable": True}
        return layout.markdown_page(template, **values)

    assert len(page(place).splitlines()) == len(page("nowhere").splitlines())
    for mark in ("<script", "\x1b", "\u202e", "\u200b", " | [x]"):
        assert mark not in page(place)


def test_a_value_that_a_template_names_and_nobody_gave_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="report"):
        layout.html_page("report.html.j2")
    with pytest.raises(UndefinedError, match="report"):
        layout.markdown_page("report.md.j2")


def test_control_and_direction_characters_go_and_all_other_letters_stay() -> None:
    assert layout.plain("a\x1b[31m \u202e\u2066b\u200b\n\tc") == "a[31m b c"
    assert layout.plain("Süß 漢字 عربى ½ – “x”") == "Süß 漢字 عربى ½ – “x”"
    assert layout.markdown_text("<b> [x](y) | `z` \\") == ("&lt;b&gt; \\[x\\](y) \\| \\`z\\` \\\\")
