"""One page on a build for who decides about it: what it gained, cost and contains, as PDF.

In:  a dossier of a build, and what the build took and brought.
Out: the bytes of a PDF of one A4 page. What does not fit on it is counted; the report has it.
reportlab draws PDF by itself: no browser and no font has to be installed.
"""

import io
from collections.abc import Sequence
from xml.sax.saxutils import escape

from registry import units
from registry.errors import Invalid
from registry.formats import tables
from registry.formats.dossier import Dossier, tool_version
from registry.formats.sections import attention
from registry.governance.worth import SECONDS_IN_AN_HOUR, BuildWorth
from registry.records.facts import Spent
from registry.records.pages import GpuPrice, NextExpert

try:
    from reportlab.lib import colors
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.lib.units import mm
    from reportlab.pdfbase.pdfmetrics import registerFont, registerFontFamily, stringWidth
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.platypus import Flowable, KeepInFrame, Paragraph, SimpleDocTemplate, Table
except ModuleNotFoundError as error:
    raise Invalid(
        "format 'pdf'",
        found=f"no {error.name}",
        expected="the packages of extra pdf",
        next="pip install 'btx-registry[pdf]'",
    ) from None

# Bitstream Vera, which reportlab brings and the page holds: no reader needs it.
REGULAR, BOLD = "Vera", "VeraBd"
INK, SOFT, LINE = colors.HexColor("#1b2027"), colors.HexColor("#58616d"), colors.HexColor("#dde1e7")
MARGIN = 16 * mm
# What the page's frame keeps free on both sides together.
PADDING = 14
MOST_ROWS, MOST_LINES = 10, 10
UNKNOWN = "Under which licence it may be passed on is a question for counsel."
# In points: the least width of a column, and what is free beside a cell's text.
LEAST_WIDE, BETWEEN = 60, 6
TEXT = ParagraphStyle("text", fontName=REGULAR, fontSize=9, leading=12, textColor=INK)
QUIET = ParagraphStyle("quiet", TEXT, fontSize=7.5, leading=9.5, textColor=SOFT)
TITLE = ParagraphStyle("title", TEXT, fontName=BOLD, fontSize=15, leading=19, spaceAfter=2)
HEADING = ParagraphStyle(
    "heading", TEXT, fontName=BOLD, fontSize=11, leading=14, spaceBefore=10, spaceAfter=2
)
CELL = ParagraphStyle("cell", TEXT, fontSize=8, leading=10.5)
NUMBER = ParagraphStyle("number", CELL, alignment=2)
COLUMN = ParagraphStyle("column", QUIET, fontName=BOLD)
COLUMN_OF_NUMBERS = ParagraphStyle("column of numbers", COLUMN, alignment=2)


def pdf(dossier: Dossier, worth: BuildWorth) -> bytes:
    """Lay a build out on one page.

    Args:
        dossier: what is recorded of it.
        worth: what it took and brought.
    """
    for name in (REGULAR, BOLD):
        registerFont(TTFont(name, f"{name}.ttf"))
    registerFontFamily(REGULAR, normal=REGULAR, bold=BOLD)
    written = io.BytesIO()
    page = SimpleDocTemplate(
        written,
        pagesize=A4,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN,
        title=f"{dossier.ref}: release sheet",
        author=f"btx {tool_version()}",
        lang="en",
    )
    parts = [*_head(dossier), *_gained(dossier), *_took(worth), *_holds(dossier), *_heed(dossier)]
    # Whatever a build has to tell, it is one page.
    page.build([KeepInFrame(page.width - PADDING, page.height - PADDING, parts, mode="shrink")])
    return written.getvalue()


def _head(dossier: Dossier) -> list[Flowable]:
    status = dict(tables.status(dossier).rows)
    said = [f"registered {status['registered']}"]
    if "approved" in status:
        said.append(f"approved {status['approved']}")
    said.append(f"released {status['released']}" if dossier.releases else "not released")
    return [
        Paragraph(escape(f"{dossier.ref}: {status['status']}"), TITLE),
        Paragraph(escape("; ".join(said)), TEXT),
        Paragraph(f"digest {dossier.subject.digest}", QUIET),
        Paragraph(f"head of the audit log {dossier.head}, {dossier.made_at}", QUIET),
    ]


def _gained(dossier: Dossier) -> list[Flowable]:
    heading = Paragraph("What it gained", HEADING)
    if not dossier.results:
        return [heading, Paragraph("Not measured.", TEXT)]
    quality = tables.quality(dossier)
    return [
        heading,
        *_table(quality),
        Paragraph(
            "Bits per byte on held-out text, lower is better. Specialist: the best member trained "
            "on the domain, by itself. Gain kept: the share of its gain that the build has.",
            QUIET,
        ),
    ]


def _took(worth: BuildWorth) -> list[Flowable]:
    estimate = worth.next_expert
    paid = (_hours(worth.hours), _money(worth.money, worth.price))
    rows: list[tuple[str, ...]] = []
    rows.append(("this build: its tuning and its new experts", *_spent(worth.spent), *paid))
    if estimate:
        expected = (_hours(estimate.hours), _money(estimate.money, worth.price))
        rows.append(("one more expert (estimate)", *_spent(estimate.takes), *expected))
    columns = ("", "tokens", "FLOPs", "device time", "cost")
    table = tables.Table(columns, tuple(rows), frozenset(range(1, len(columns))))
    parts: list[Flowable] = [Paragraph("What it took", HEADING), *_table(table)]
    if worth.price:
        said = f"An hour of a device costs {worth.price.gpu_hour:g} {worth.price.currency}."
    else:
        said = "No price is set: [cost] gpu_hour in btx.toml."
    parts.append(Paragraph(escape(said), QUIET))
    if estimate:
        parts.append(Paragraph(escape(_expected(estimate)), QUIET))
    return parts


def _expected(estimate: NextExpert) -> str:
    """Return on what an estimate rests, in words."""
    said = (
        f"The estimate is the median training of {units.counted(estimate.trained, 'expert')}, "
        f"and a rebuild by the recipe of {estimate.tuned_as}."
    )
    if estimate.least_gain is None or estimate.most_gain is None:
        return said
    least, most = units.figure(estimate.least_gain), units.figure(estimate.most_gain)
    return (
        f"{said} Experts gained {least} to {most} bits per byte on their own text when they joined."
    )


def _holds(dossier: Dossier) -> list[Flowable]:
    parts: list[Flowable] = [Paragraph("What is in it", HEADING), *_table(tables.members(dossier))]
    if dossier.licence:
        named = dossier.licence.expression
        said = f"May be passed on under {named} ({dossier.licence.answer})." if named else UNKNOWN
        parts.append(Paragraph(escape(said), TEXT))
    return parts


def _heed(dossier: Dossier) -> list[Flowable]:
    lines = attention(dossier)
    shown = [Paragraph(f"• {escape(line)}", TEXT) for line in lines[:MOST_LINES]]
    if not lines:
        shown = [Paragraph("Nothing.", TEXT)]
    return [Paragraph("What to know before signing", HEADING), *shown, *_more(lines, MOST_LINES)]


def _table(table: tables.Table) -> list[Flowable]:
    """Lay out a table; a long text wraps in its cell."""
    cells: list[list[Flowable]] = [[Paragraph(escape(name), COLUMN) for name in table.columns]]
    for row in table.rows[:MOST_ROWS]:
        numeric = table.numeric
        styles = [NUMBER if column in numeric else CELL for column in range(len(row))]
        cells.append(
            [Paragraph(escape(text), style) for text, style in zip(row, styles, strict=True)]
        )
    for column in table.numeric:
        cells[0][column] = Paragraph(escape(table.columns[column]), COLUMN_OF_NUMBERS)
    laid_out = Table(cells, colWidths=_widths(table), repeatRows=1)
    laid_out.setStyle(
        [
            ("LINEBELOW", (0, 0), (-1, -1), 0.4, LINE),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("TOPPADDING", (0, 0), (-1, -1), 1.5),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("RIGHTPADDING", (0, 0), (-1, -1), 5),
        ]
    )
    return [laid_out, *_more(table.rows, MOST_ROWS)]


def _widths(table: tables.Table) -> list[float]:
    """Return the width of each column: what its cells take, the widest less where all do not fit.

    A column's name may wrap between its words.
    """
    taken = []
    for column, name in enumerate(table.columns):
        cells = [stringWidth(row[column], REGULAR, CELL.fontSize) for row in table.rows]
        words = [stringWidth(word, BOLD, COLUMN.fontSize) for word in name.split()]
        taken.append(max(0.0, *cells, *words) + BETWEEN)
    whole = A4[0] - 2 * MARGIN - PADDING
    over = sum(taken) - whole
    if over > 0:
        taken[taken.index(max(taken))] = max(LEAST_WIDE, max(taken) - over)
    return [width * whole / sum(taken) for width in taken]


def _more(items: Sequence[object], shown: int) -> list[Flowable]:
    """Say how many were left out; nothing where all are there."""
    if len(items) <= shown:
        return []
    return [Paragraph(f"and {len(items) - shown} more: the report has them all", QUIET)]


def _spent(spent: Spent) -> tuple[str, str]:
    """Return tokens and FLOPs; these without raised digits, which the font lacks."""
    flops = f"{spent.flops:.2e}" if spent.flops else "–"
    return (f"{spent.tokens:,}" if spent.tokens else "–", flops)


def _hours(hours: float) -> str:
    return units.duration(hours * SECONDS_IN_AN_HOUR)


def _money(amount: float | None, price: GpuPrice | None) -> str:
    return "–" if amount is None or price is None else f"{units.figure(amount)} {price.currency}"
