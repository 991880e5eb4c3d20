"""The commands that compose a model and look into one: rebuild, mix, explain, bench, demo."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.text import Text

from pipelines.cli.options import (
    Attached,
    Build,
    Executor,
    Facts,
    FactsFile,
    Json,
    executor_named,
    find_workspace,
    given_facts,
    require_choice,
)
from pipelines.cli.output import place_text, print_answer, print_json, print_line
from pipelines.workspace.bars import bar
from pipelines.workspace.terminal import console, table_of
from registry.units import counted, duration, percent, power, size

if TYPE_CHECKING:
    from registry.records.answers.answer import Answer
    from registry.records.answers.auditing import ExpertWeight, ExplainAnswer
    from registry.records.answers.building import (
        ForecastAnswer,
        MemberChange,
        Price,
        PriceOfOneMore,
        RebuildAnswer,
        TuningAnswer,
    )

A = TypeVar("A", bound="Answer")

CHANGE_SIGNS = {"added": "+", "replaced": "~", "kept": "=", "removed": "-"}
TERMINAL_HUES = ("white", "blue", "dark_orange3", "green", "purple", "red", "cyan", "yellow")

app = typer.Typer()


@app.command("rebuild")
def rebuild_command(
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="EXPERT", help="take this expert (version) in"),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="EXPERT", help="leave this expert out")
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(metavar="none|router|shared|all", help="what to train after the mix"),
    ] = None,
    line: Annotated[
        str, typer.Option(metavar="NAME", help="product line; [line.NAME] in btx.toml")
    ] = "main",
    to: Annotated[
        str | None,
        typer.Option(
            metavar="build/N|snapshot/LINE@V", help="go back to its members, slots and recipe"
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML with [recipe.mix] ... instead of btx.toml's"),
    ] = None,
    from_nothing: Annotated[
        bool,
        typer.Option("--from-nothing", help="tune from nothing where the recipe says grow"),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would run, write nothing")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="build also what seems not to fit in memory or on disk")
    ] = False,
    executor: Executor = None,
    fact: Facts = None,
    facts: FactsFile = None,
    attach: Attached = None,
    json: Json = False,
) -> None:
    """Compose the model of all experts in use; only what changed runs.

    To upgrade, just rebuild: the newest version of each expert is taken. To pin a version,
    --with legal@1. To roll back, --to build/3. To look ahead, --dry-run.

    Example: btx rebuild --without math --dry-run
    """
    from pipelines.jobs.build_plan import Request
    from pipelines.jobs.rebuild import look_ahead, rebuild
    from pipelines.workspace.settings_file import read_recipes

    require_choice("--tune", tune, ("none", "router", "shared", "all"))
    request = Request(
        line=line,
        with_=with_ or (),
        without=without or (),
        tune=tune,
        to=to,
        recipes=read_recipes(recipe) if recipe else None,
        from_nothing=from_nothing,
    )
    chosen = executor_named(executor)
    workspace = find_workspace().stating(given_facts(fact, facts, attach))
    if dry_run:
        _print_answer(look_ahead(workspace, request, executor=chosen), json, _print_forecast)
    else:
        built = rebuild(workspace, request, executor=chosen, anyway=anyway)
        _print_answer(built, json, _print_rebuild)


def _print_answer(answer: A, json: bool, print_text: Callable[[A], None]) -> None:
    if json:
        print_json(answer)
    else:
        print_text(answer)


def _print_rebuild(answer: "RebuildAnswer") -> None:
    """Print what a rebuild did."""
    print_line(f"{answer.build}   {answer.status}")
    print_line(f"  ran     {', '.join(answer.ran) or 'nothing'}")
    print_line(f"  reused  {', '.join(answer.reused) or 'nothing'}")
    if answer.bytes_written:
        written, linked = size(answer.bytes_written), size(answer.bytes_linked)
        print_line(f"  bytes   {written} written, {linked} linked")
    if answer.tuning:
        print_line(f"  tuned   {_tuning(answer.tuning)}")


def _print_forecast(answer: "ForecastAnswer") -> None:
    """Print what a rebuild would do, and what it would take, measured on an earlier one."""
    line = f"   line {answer.line}" if answer.line else ""
    print_line(f"{answer.build or 'plan'}   {answer.status}{line}")
    for change in answer.changes:
        print_line(f"  {_change(change)}")
    print_line(f"  run     {', '.join(answer.ran) or 'nothing'}")
    print_line(f"  reuse   {', '.join(answer.reused) or 'nothing'}")
    if answer.bytes_written:
        written, linked = size(answer.bytes_written), size(answer.bytes_linked)
        print_line(f"  bytes   {written} to write, {linked} linked{_room(answer)}")
    if answer.seconds:
        stages = [f"{stage} {duration(seconds)}" for stage, seconds in answer.seconds.items()]
        print_line(f"  time    {', '.join(stages)}, by {answer.measured_on}")
    elif answer.ran:
        print_line("  time    not known: no build like it has been measured yet")
    for rule in answer.refused_by:
        print_line(f"  gate build would refuse it by {rule}")
    for place in answer.stages:
        print_line(f"  on      {place.stage} {place_text(place)}")
    if answer.chosen:
        values = ", ".join(f"{key} {value:g}" for key, value in answer.chosen.items())
        print_line(f"  tune    {values} (auto)")
    if answer.tuning:
        print_line(f"  cost    {_tuning(answer.tuning)}")
    if answer.price:
        _print_price(answer.price)


def _room(answer: "ForecastAnswer") -> str:
    free = answer.free_bytes
    if free is None or answer.bytes_written <= free:
        return ""
    return f", of {size(free)} free: DOES NOT FIT"


def _print_price(price: "PriceOfOneMore") -> None:
    """Print what another expert would cost, beside everything from nothing."""
    how = "grown" if price.grown else "tuned from nothing"
    print_line(f"  price   of expert {price.experts}, {how}, by {price.measured_on}:")
    print_line(f"            {_price(price.one_more)}")
    print_line("          all branches again and a build from nothing:")
    print_line(f"            {_price(price.from_nothing)}")


def _price(price: "Price") -> str:
    parts = [f"{price.tokens:,} tokens"]
    if price.flops is not None:
        parts.append(f"{power(price.flops)} FLOPs")
    if price.seconds is not None:
        parts.append(duration(price.seconds))
    return ", ".join([*parts, f"{size(price.bytes)} written"])


def _tuning(tuning: "TuningAnswer") -> str:
    """Return what a tuning goes on from, what it takes and what it saves."""
    steps = counted(tuning.steps, "step")
    text = f"from {tuning.from_}: {steps}, {tuning.tokens:,} tokens"
    if tuning.flops:
        text += f", {power(tuning.flops)} FLOPs"
    if tuning.from_nothing_tokens > tuning.tokens:
        saved = 1 - tuning.tokens / tuning.from_nothing_tokens
        text += f"; from nothing {tuning.from_nothing_tokens:,} tokens: {percent(saved)} saved"
    return text


def _change(change: "MemberChange") -> str:
    """Return the line about a member that is added, replaced, kept or removed."""
    slot = "" if change.slot is None else f"   slot {change.slot}"
    before = f"   for {change.before}" if change.change == "replaced" else ""
    return f"{CHANGE_SIGNS[change.change]} {change.ref}{slot}{before}"


@app.command("mix")
def mix_command(
    seed: Path,
    experts: Annotated[list[Path], typer.Argument(metavar="EXPERT...")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR")],
    mode: Annotated[str, typer.Option(metavar="full|anchored")] = "full",
    no_seed_expert: Annotated[
        bool, typer.Option("--no-seed-expert", help="leave the seed's own feed-forward blocks out")
    ] = False,
    top_k: Annotated[int, typer.Option(metavar="K", help="experts per token")] = 2,
    json: Json = False,
) -> None:
    """Compose once, without a workspace: checkpoint folders in, a folder out.

    Example: btx mix ./llama ./legal ./support -o ./mixed
    """
    from btx_core.mixing.mix import MixRecipe
    from pipelines.jobs.mix_once import compose

    require_choice("--mode", mode, ("full", "anchored"))
    recipe = MixRecipe(
        mode="full" if mode == "full" else "anchored", seed_expert=not no_seed_expert, top_k=top_k
    )
    with bar("mix") as progress:
        answer = compose(seed, experts, out, recipe, progress)
    written = size(answer.bytes_written)
    count = "1 expert" if len(experts) == 1 else f"{len(experts)} experts"
    text = (
        f"{out}   {count}   {written} written\n"
        "its routers are random: tune them, as btx rebuild does, before you judge the mixture"
    )
    print_answer(answer, json, text)


@app.command("explain")
def explain_command(
    build: Build,
    text: Annotated[str, typer.Option(metavar="TEXT")],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write a page to a new file instead")
    ] = None,
    json: Json = False,
) -> None:
    """Show which expert, and so whose data, each token of TEXT was computed with.

    Example: btx explain build/2 --text "def area(r): return 3.14 * r ** 2"
    """
    from pipelines.jobs.explain import explain, write_page

    answer = explain(find_workspace(), build, text)
    if html is not None:
        write_page(answer, html)
    if json:
        print_json(answer)
    elif html is not None:
        print_line(f"{answer.build}   {len(answer.tokens)} tokens   {html}")
    else:
        _print_explanation(answer)


def _print_explanation(answer: "ExplainAnswer") -> None:
    """Print each token's strongest expert, in colour if there is one; then each source's share."""
    from registry.records.kinds import UNUSABLE

    hues = {}
    for position, source in enumerate(answer.sources):
        hues[source.ref] = TERMINAL_HUES[position % len(TERMINAL_HUES)]
    text = Text()
    uncoloured = []
    for token in answer.tokens:
        strongest = max(token.experts, key=_weight)
        style = f"{hues[strongest.ref]} underline"
        text.append(token.text, f"{style} bold" if strongest.weight > 0.5 else style)
        uncoloured.append([repr(token.text), strongest.ref, percent(strongest.weight).rjust(7)])
    rows = [
        [
            Text(source.ref, hues[source.ref]),
            percent(source.share).rjust(7),
            ", ".join(source.data),
            ", ".join(source.licenses),
        ]
        for source in answer.sources
    ]
    out = console(sys.stdout)
    if answer.status in UNUSABLE:
        print_line(f"{answer.build} is {answer.status}: no gate lets it pass")
    if out.color_system:
        out.print(text, soft_wrap=True)
    else:
        out.print(table_of(["token", "strongest", "weight"], uncoloured))
    out.print(table_of(["source", "share", "data", "licences"], rows))


def _weight(expert: "ExpertWeight") -> float:
    return expert.weight


@app.command("bench")
def bench_command(
    directory: Annotated[
        Path,
        typer.Option(
            "--dir", metavar="DIR", help="where results lie; a run that was cut off goes on"
        ),
    ] = Path("bench"),
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="random seeds, 0 to N - 1")] = 3,
    json: Json = False,
) -> None:
    """Train BTX, its rivals and its ablations on real text and print the table.

    It takes about half an hour for each random seed on one core.

    Example: btx bench --seeds 3 --dir bench
    """
    from pipelines.story.bench import SCALE, bench, markdown, picture
    from registry.records.answers.figures import BenchRow

    directory.mkdir(parents=True, exist_ok=True)
    rows = bench(directory, list(range(seeds)), SCALE, _print_to_stderr)
    table = markdown(rows)
    (directory / "table.md").write_text(table, encoding="utf-8")
    picture(rows, directory / "table.png")
    if json:
        print_json([BenchRow(**vars(row)) for row in rows])
    else:
        print_line(table.rstrip("\n"))


def _print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


@app.command("demo")
def demo_command(
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR")] = Path("demo"),
    seed: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="a dense checkpoint to start from instead of training one"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Tell the whole story on real text: three experts, a fourth, a withdrawal, audits between.

    Example: btx demo --dir /tmp/btx-demo
    """
    from pipelines.story.demo import demo
    from pipelines.story.narrator import Narrator

    answer = demo(directory, seed, Narrator(sys.stderr if json else sys.stdout), bar)
    if json:
        print_json(answer)
