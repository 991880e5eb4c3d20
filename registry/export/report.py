"""The report for people: one page that answers an auditor, as HTML that needs nothing beside itself, or as Markdown.

In:  a dossier.  Out: text. What the sections say is sections.py's; here they are laid out, and every recorded word is escaped.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from registry.export.dossier import Dossier, tool_version
from registry.export.sections import Section, Table, annex_iv, overview, training_summary

PARTS = (
    ("Overview", "", overview),
    (
        "Technical documentation",
        "EU AI Act (Regulation (EU) 2024/1689), Annex IV: what each point needs, what is recorded, what is missing.",
        annex_iv,
    ),
    ("Summary of training content", "The AI Office's template for the public summary under Article 53(1)(d).", training_summary),
)
STYLE = Path(__file__).with_suffix(".css").read_text()
SAYS = {"held": "recorded", "partly": "recorded in part", "missing": "missing"}


def html(dossier: Dossier) -> str:
    title = f"{dossier.ref}: report"
    links = " ".join(f'<a href="#part-{number}">{_escaped(name)}</a>' for number, (name, _, _) in enumerate(PARTS, 1))
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    )
    body = f'<h1>{_escaped(dossier.ref)}</h1>\n<p class="soft">{_escaped(_line(dossier))}</p>\n<nav>{links}</nav>\n'
    body += "".join(_html_part(number, dossier) for number in range(1, len(PARTS) + 1))
    return head + body + _html_check(dossier) + "</body>\n</html>\n"


def markdown(dossier: Dossier) -> str:
    parts = [f"# {_md(dossier.ref)}: report\n\n{_md(_line(dossier))}\n"]
    for name, about, make in PARTS:
        sections = make(dossier)
        parts.append(f"## {name}\n" + (f"\n{about} {_tally(sections)}\n" if about else ""))
        parts += map(_md_section, sections)
    parts.append("## Checking this without us\n\n" + "".join(f"- {_md(line)}\n" for line in _checks(dossier)))
    return "\n".join(parts)


def card(dossier: Dossier) -> str:
    """The overview alone, as the body of a model card."""
    sections = "\n".join(_md_section(section) for section in overview(dossier))
    return f"# {_md(dossier.ref)}\n\n{_md(_line(dossier))}\n\n{sections}"


def _line(dossier: Dossier) -> str:
    status = dossier.statuses.get(dossier.ref, "registered")
    return f"Written {dossier.made_at} by btx-registry {tool_version()} from the registry's own rows. Status: {status}."


def _checks(dossier: Dossier) -> Sequence[str]:
    return (
        f"Files: SHA-256 of each file is in the in-toto statement of {dossier.ref}; compare with sha256sum.",
        "Attestation: a DSSE envelope with an Ed25519 signature; any in-toto or securesystemslib verifier reads it.",
        f"Log: the newest event when this was written is {dossier.head}; an audit with it as pinned head shows whether the past changed.",
    )


def _html_part(number: int, dossier: Dossier) -> str:
    name, about, make = PARTS[number - 1]
    sections = make(dossier)
    said = f'<p class="soft">{_escaped(about)} {_tally(sections)}</p>\n' if about else ""
    return f'<h2 id="part-{number}">{_escaped(name)}</h2>\n{said}' + "".join(map(_html_section, sections))


def _tally(sections: Sequence[Section]) -> str:
    counts = Counter(section.state for section in sections)
    return f"Of {len(sections)} points " + ", ".join(f"{counts[state]} {words}" for state, words in SAYS.items()) + "."


def _html_section(section: Section) -> str:
    state = f'<span class="state {section.state}">{SAYS[section.state]}</span>' if section.needs else ""
    made = f"<h3>{_escaped(section.title)}{state}</h3>\n"
    made += f'<p class="needs">{_escaped(section.needs)}</p>\n' if section.needs else ""
    made += "".join(_html_table(part) if isinstance(part, Table) else f"<p>{_escaped(part)}</p>\n" for part in section.holds)
    if section.missing:
        lines = "".join(f"<li>{_escaped(line)}</li>" for line in section.missing)
        made += f'<div class="gaps"><span class="missing">Missing</span><ul>{lines}</ul></div>\n'
    return made


def _html_table(table: Table) -> str:
    def row(cells: Iterable[str], tag: str) -> str:
        marked = (f'<{tag} class="n">' if number in table.numbers else f"<{tag}>" for number in range(len(table.columns)))
        return "<tr>" + "".join(f"{mark}{_escaped(cell)}</{tag}>" for mark, cell in zip(marked, cells, strict=True)) + "</tr>"

    body = "\n".join(row(cells, "td") for cells in table.rows)
    return f'<div class="scroll"><table><thead>{row(table.columns, "th")}</thead><tbody>\n{body}\n</tbody></table></div>\n'


def _html_check(dossier: Dossier) -> str:
    lines = "".join(f"<li>{_escaped(line)}</li>" for line in _checks(dossier))
    return f"<h3>Checking this without us</h3>\n<ul>{lines}</ul>\n"


def _md_section(section: Section) -> str:
    made = f"### {_md(section.title)}" + (f" ({SAYS[section.state]})" if section.needs else "") + "\n\n"
    made += f"*Needs: {_md(section.needs)}*\n\n" if section.needs else ""
    made += "\n".join(_md_table(part) if isinstance(part, Table) else f"{_md(part)}\n" for part in section.holds)
    if section.missing:
        made += ("\n" if section.holds else "") + "Missing:\n\n" + "".join(f"- {_md(line)}\n" for line in section.missing)
    return made


def _md_table(table: Table) -> str:
    ruler = " | ".join("---:" if number in table.numbers else "---" for number in range(len(table.columns)))
    rows = "".join(f"| {' | '.join(_md(cell) for cell in cells)} |\n" for cells in table.rows)
    return f"| {' | '.join(table.columns)} |\n| {ruler} |\n{rows}"


def _plain(text: str) -> str:
    """One line without control or direction characters, which could make a page say something else than what is recorded."""
    return "".join(mark for mark in " ".join(text.split()) if unicodedata.category(mark) not in ("Cc", "Cf", "Cs"))


def _escaped(text: str) -> str:
    return escape(_plain(text))


def _md(text: str) -> str:
    """Recorded words as words: no HTML, no table or link marks, one line."""
    plain = "".join(f"\\{mark}" if mark in "\\|`[]*" else mark for mark in _plain(text))
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
