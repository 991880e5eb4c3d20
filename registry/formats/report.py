"""The report for people: one page that answers an auditor, as HTML that needs nothing beside itself, or as Markdown.

In:  a dossier.  Out: text. What the sections say is sections.py's; here they are laid out, and every recorded word is escaped.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from registry.formats.dossier import Dossier, tool_version
from registry.formats.sections import (
    Part,
    Section,
    See,
    annex_iv,
    attention,
    overview,
    training_summary,
)
from registry.formats.tables import Facts, Table

KINDS = {"build": "Model build", "expert": "Expert", "seed": "Seed model", "data": "Data version"}
PARTS = (
    ("Overview", "", overview),
    (
        "Technical documentation",
        "EU AI Act (Regulation (EU) 2024/1689), Annex IV: what each point needs, what is recorded, what is missing.",
        annex_iv,
    ),
    (
        "Summary of training content",
        "The AI Office's template for the public summary under Article 53(1)(d).",
        training_summary,
    ),
)
STYLE = Path(__file__).with_suffix(".css").read_text()
SAYS = {"held": "recorded", "partly": "recorded in part", "missing": "missing"}
SIGNS = "I have read this report, and what it says to be missing is answered elsewhere or accepted."
LONGEST_WORD = 24  # characters of a cell that is kept on one line


def html(dossier: Dossier) -> str:
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_escaped(dossier.ref)}: report</title>\n<style>{STYLE}{_footer(dossier)}</style>\n</head>\n<body>\n"
    )
    parts = "".join(_html_part(number, dossier) for number in _parts(dossier))
    return (
        f"{head}{_html_top(dossier)}<main>\n{parts}{_html_end(dossier)}</main>\n</body>\n</html>\n"
    )


def markdown(dossier: Dossier) -> str:
    parts = [f"# {_md(dossier.ref)}: report\n\n{_md(_line(dossier))}\n"]
    parts += [
        "**To know before signing**\n\n"
        + "".join(f"- {_md(line)}\n" for line in attention(dossier))
    ]
    for name, about, make in (PARTS[number - 1] for number in _parts(dossier)):
        sections = make(dossier)
        parts.append(f"## {name}\n" + (f"\n{about} {_tally(sections)}\n" if about else ""))
        parts += map(_md_section, sections)
    parts.append(
        "## Checking this without us\n\n" + "".join(f"- {_md(line)}\n" for line in _checks(dossier))
    )
    return "\n".join(parts)


def card(dossier: Dossier) -> str:
    """What to know and the overview, as the body of a model card."""
    known = "".join(f"- {_md(line)}\n" for line in attention(dossier))
    sections = "\n".join(_md_section(section) for section in overview(dossier))
    return f"# {_md(dossier.ref)}\n\n{_md(_line(dossier))}\n\n{known}\n{sections}"


def _parts(dossier: Dossier) -> tuple[int, ...]:
    """Annex IV asks about models."""
    return (1, 3) if dossier.subject.ref.kind == "data" else (1, 2, 3)


def _line(dossier: Dossier) -> str:
    status = dossier.statuses.get(dossier.ref, "registered")
    return f"Written {dossier.made_at} by btx-registry {tool_version()} from the registry's own rows. Status: {status}."


def _checks(dossier: Dossier) -> Sequence[str]:
    return (
        f"Files: SHA-256 of each file is in the in-toto statement of {dossier.ref}; compare with sha256sum.",
        "Attestation: a DSSE envelope with an Ed25519 signature; any in-toto or securesystemslib verifier reads it.",
        f"Log: the newest event when this was written is {dossier.head}; an audit with it as pinned head shows whether the past changed.",
    )


def _footer(dossier: Dossier) -> str:
    """What stands at the foot of every printed page."""
    named = "".join(
        mark
        for mark in f"{dossier.ref}, written {dossier.made_at}"
        if mark.isalnum() or mark in " /@.,:_-"
    )
    return f'@page {{ @bottom-left {{ content: "{named}"; }} }}\n'


def _html_top(dossier: Dossier) -> str:
    subject = dossier.subject
    links = " ".join(
        f'<a href="#part-{number}">{_escaped(PARTS[number - 1][0])}</a>'
        for number in _parts(dossier)
    )
    lines = "".join(f"<li>{_escaped(line)}</li>" for line in attention(dossier))
    return (
        f'<header>\n<p class="kind">{KINDS.get(subject.ref.kind, subject.ref.kind)} · report</p>\n<h1>{_escaped(dossier.ref)}</h1>\n'
        f'<p class="soft">{_escaped(_line(dossier))}</p>\n<nav>{links} <a href="#sign">Sign-off</a></nav>\n'
        f"<aside><h2>To know before signing</h2><ul>{lines}</ul></aside>\n</header>\n"
    )


def _html_part(number: int, dossier: Dossier) -> str:
    name, about, make = PARTS[number - 1]
    sections = make(dossier)
    said = f'<p class="about">{_escaped(about)} {_tally(sections)}</p>\n' if about else ""
    return f'<h2 class="part" id="part-{number}">{_escaped(name)}</h2>\n{said}' + "".join(
        map(_html_section, sections)
    )


def _tally(sections: Sequence[Section]) -> str:
    counts = Counter(section.state for section in sections)
    return (
        f"Of {len(sections)} points "
        + ", ".join(f"{counts[state]} {words}" for state, words in SAYS.items())
        + "."
    )


def _html_section(section: Section) -> str:
    """What is asked beside what is held; tables have the whole width below."""
    state = (
        f'<span class="state {section.state}">{SAYS[section.state]}</span>' if section.needs else ""
    )
    asked = f"<h3>{_escaped(section.title)}</h3>\n{state}" + (
        f'<p class="needs">{_escaped(section.needs)}</p>\n' if section.needs else ""
    )
    words = "".join(_html_words(part) for part in section.holds if not isinstance(part, Table))
    if section.missing:
        lines = "".join(f"<li>{_escaped(line)}</li>" for line in section.missing)
        words += f'<div class="gaps"><span>Missing</span><ul>{lines}</ul></div>\n'
    shown = "".join(_html_table(part) for part in section.holds if isinstance(part, Table))
    if section.needs:
        return f'<section class="point"><div>{asked}</div><div>{words}</div>{shown}</section>\n'
    return f'<section id="{_anchor(section.title)}">{asked}{shown}{words}</section>\n'


def _html_words(part: Part | str) -> str:
    if isinstance(part, Facts):
        return (
            "<dl>"
            + "".join(
                f"<dt>{_escaped(name)}</dt><dd>{_escaped(value)}</dd>" for name, value in part.rows
            )
            + "</dl>\n"
        )
    if isinstance(part, See):
        return f'<p>See <a href="#{_anchor(part.title)}">{_escaped(part.title)}</a> in the overview.</p>\n'
    return f"<p>{_escaped(str(part))}</p>\n"


def _html_table(table: Table) -> str:
    """A short cell stays on one line; on a narrow screen each row becomes a card, its cells named by their columns."""
    firm = {
        number
        for number in range(len(table.columns))
        if all(len(cells[number]) <= LONGEST_WORD for cells in table.rows)
    }

    def row(cells: Iterable[str], tag: str) -> str:
        made = ""
        for number, cell in enumerate(cells):
            kind = " ".join(
                name for name, held in (("n", table.numbers), ("firm", firm)) if number in held
            )
            label = f' data-label="{_escaped(table.columns[number])}"' if tag == "td" else ""
            made += f"<{tag}{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}{label}>{_escaped(cell)}</{tag}>"
        return f"<tr>{made}</tr>"

    body = "\n".join(row(cells, "td") for cells in table.rows)
    return f'<div class="scroll"><table><thead>{row(table.columns, "th")}</thead><tbody>\n{body}\n</tbody></table></div>\n'


def _html_end(dossier: Dossier) -> str:
    lines = "".join(f"<li>{_escaped(line)}</li>" for line in _checks(dossier))
    fields = "".join(f"<dt>{name}</dt><dd></dd>" for name in ("Name", "Role", "Date", "Signature"))
    return (
        f'<h2 class="part" id="sign">Sign-off</h2>\n<section><h3>Checking this without us</h3>\n<ul>{lines}</ul></section>\n'
        f'<section class="sign"><p>{SIGNS} {_escaped(dossier.ref)}, digest <span class="digest">{_escaped(dossier.subject.digest)}</span>.</p>'
        f"<dl>{fields}</dl></section>\n"
    )


def _md_section(section: Section) -> str:
    made = (
        f"### {_md(section.title)}"
        + (f" ({SAYS[section.state]})" if section.needs else "")
        + "\n\n"
    )
    made += f"*Needs: {_md(section.needs)}*\n\n" if section.needs else ""
    made += "\n".join(map(_md_part, section.holds))
    if section.missing:
        made += (
            ("\n" if section.holds else "")
            + "Missing:\n\n"
            + "".join(f"- {_md(line)}\n" for line in section.missing)
        )
    return made


def _md_part(part: Part | str) -> str:
    if isinstance(part, Table):
        return _md_table(part)
    if isinstance(part, Facts):
        return _md_table(Table(("what", "recorded"), part.rows))
    return (
        f"See {_md(part.title)} in the overview.\n" if isinstance(part, See) else f"{_md(part)}\n"
    )


def _md_table(table: Table) -> str:
    ruler = " | ".join(
        "---:" if number in table.numbers else "---" for number in range(len(table.columns))
    )
    rows = "".join(f"| {' | '.join(_md(cell) for cell in cells)} |\n" for cells in table.rows)
    return f"| {' | '.join(table.columns)} |\n| {ruler} |\n{rows}"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _plain(text: str) -> str:
    """One line without control or direction characters, which could make a page say something else than what is recorded."""
    return "".join(
        mark
        for mark in " ".join(text.split())
        if unicodedata.category(mark) not in ("Cc", "Cf", "Cs")
    )


def _escaped(text: str) -> str:
    return escape(_plain(text))


def _md(text: str) -> str:
    """Recorded words as words: no HTML, no table or link marks, one line."""
    plain = "".join(f"\\{mark}" if mark in "\\|`[]*" else mark for mark in _plain(text))
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
