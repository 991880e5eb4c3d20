"""The commands that take something in: init, trust, data add, seed add, train, register."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import (
    Attached,
    Executor,
    Facts,
    FactsFile,
    Json,
    LicenceText,
    executor_named,
    find_workspace,
    given_facts,
    require_choice,
)
from pipelines.cli.output import place_text, print_answer, print_json
from pipelines.workspace.bars import bar
from registry.units import counted, size

if TYPE_CHECKING:
    from registry.records.answers.building import TrainForecastAnswer
    from registry.records.answers.registering import SuggestAnswer
    from registry.records.facts import Facts as Recorded
    from registry.records.version import Version

app = typer.Typer()
data_app = typer.Typer(help="Data versions.", no_args_is_help=True)
seed_app = typer.Typer(help="Seeds.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(seed_app, name="seed")


@app.command("init")
def init_command(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path("."), json: Json = False
) -> None:
    """Make a workspace: git + DVC + btx.toml + dvc.yaml + policies/.

    Example: btx init my-models
    """
    from pipelines.workspace.workspace import create
    from registry.records.answers.registering import WorkspaceAnswer

    workspace = create(directory)
    answer = WorkspaceAnswer(workspace=str(workspace.root), head=workspace.catalog.head())
    advice = "btx data add NAME PATH --license SPDX-ID --source TEXT --pii none"
    print_answer(answer, json, f"workspace {workspace.root}\nnext: {advice}")


@app.command("trust")
def trust_command(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path("."), json: Json = False
) -> None:
    """Confirm on this machine what a workspace names: a server, files outside it, commands.

    Every command refuses a workspace that names such things until its user has confirmed them, and
    again when they change. What is confirmed is printed: read it first with any other command.

    Example: btx trust ~/shared/models
    """
    from pipelines.workspace import trust
    from pipelines.workspace.workspace import Workspace
    from registry.records.answers.registering import TrustAnswer

    workspace = Workspace.unconfirmed(directory)
    statements = workspace.statements()
    trust.confirm(workspace.root, statements)
    answer = TrustAnswer(workspace=str(workspace.root), statements=tuple(statements))
    listed = "\n".join(f"  {statement}" for statement in statements) or "  nothing to confirm"
    print_answer(answer, json, f"trusted: {workspace.root}\n{listed}")


@data_app.command("add")
def data_add_command(
    name: str,
    path: Annotated[str, typer.Argument(metavar="PATH|URL")],
    license: Annotated[
        str | None, typer.Option(metavar="SPDX-ID", help="for example CC-BY-4.0")
    ] = None,
    license_choice: Annotated[
        str | None,
        typer.Option(metavar="SPDX-ID", help="which one was taken, where the licence has OR"),
    ] = None,
    source: Annotated[str | None, typer.Option(metavar="TEXT", help="where it comes from")] = None,
    holder: Annotated[str | None, typer.Option(metavar="TEXT", help="who holds the rights")] = None,
    pii: Annotated[
        str | None, typer.Option(metavar="none|reviewed|present", help="personal data in it")
    ] = None,
    purpose: Annotated[str | None, typer.Option(metavar="TEXT")] = None,
    language: Annotated[
        str | None, typer.Option(metavar="TAG", help="that it is written in, such as en or de-CH")
    ] = None,
    retain_until: Annotated[
        str | None, typer.Option(metavar="DATE", help="ISO date after which it must not be used")
    ] = None,
    use: Annotated[
        str,
        typer.Option(
            metavar="training|evaluation",
            help="evaluation: never trained on, but every expert and build is measured on it",
        ),
    ] = "training",
    text_field: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="that holds the text of every row"),
    ] = None,
    fact: Facts = None,
    facts: FactsFile = None,
    attach: Attached = None,
    license_text: LicenceText = None,
    json: Json = False,
) -> None:
    """Register a corpus as a data version: files here, or at a URL that DVC can fetch.

    Read are text and Markdown (a document a file), .jsonl, .json, .csv, .parquet and folders that
    the datasets library saved (a document a row), text also as .gz and .zst. A row is {"text"},
    {"prompt", "answer"}, {"prompt", "completion"}, {"instruction", "input", "output"} or
    {"messages"}; its columns id, author and license are known too.

    Of a URL, user, password and what follows ? are used and never recorded or shown. ${NAME} in it
    is taken from the environment.

    Example: btx data add math ./corpora/math --license CC0-1.0 --source "my own" --pii none

    Example: btx data add law https://example.org/law.jsonl --license CC-BY-4.0 --pii none

    Example: btx data add news ./corpora/news --license CC-BY-4.0 --use evaluation

    Example: btx data add code ./code.parquet --text-field content --license MIT --pii none
    """
    from pipelines.jobs.add_data import add_data
    from registry.records.facts import DataStatement
    from registry.records.kinds import DataUse, PersonalData

    require_choice("--use", use, tuple(DataUse))
    require_choice("--pii", pii, tuple(PersonalData))
    statement = DataStatement(
        license=license,
        license_choice=license_choice,
        source=source,
        holder=holder,
        purpose=purpose,
        language=language,
        pii=pii,
        retain_until=retain_until,
        use=use,
    )
    corpus = path if "://" in path else Path(path)
    workspace = find_workspace().stating(given_facts(fact, facts, attach, license_text))
    _print_version(add_data(workspace, name, corpus, statement, text_field=text_field), json)


@data_app.command("suggest")
def data_suggest_command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="text in any form that is taken in")],
    domains: Annotated[
        int | None, typer.Option(metavar="K", help="how many; default: as many as are clear")
    ] = None,
    text_field: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="that holds the text of every row"),
    ] = None,
    json: Json = False,
) -> None:
    """Propose domains for a mixed corpus: which of its documents use the same words.

    Nothing is written. Groups are of vocabulary, not of meaning: read the examples, then divide the
    corpus as your work is divided. --json names every document of each group.

    Example: btx data suggest ./everything

    Example: btx data suggest ./code.parquet --text-field content
    """
    from pipelines.jobs.suggest import suggest

    answer = suggest(path, domains, text_field=text_field)
    print_answer(answer, json, _suggested(answer, domains))


def _suggested(answer: "SuggestAnswer", asked: int | None) -> str:
    """Return a line for each group, and examples below it."""
    from pipelines.jobs.suggest import EXAMPLES

    if len(answer.domains) == 1:
        advice = "Ask for a number with --domains" if asked is None else "All use the same words"
        return f"one domain: no two groups are clearly apart. {advice}"
    lines = []
    for number, domain in enumerate(answer.domains, 1):
        found = f"{counted(len(domain.documents), 'document')}, {size(domain.bytes)}"
        lines.append(f"group {number}   {found}   {', '.join(domain.words)}")
        for document in domain.documents[:EXAMPLES]:
            place = "" if document.number is None else f":{document.number}"
            lines.append(f"  {document.file}{place}")
    if answer.agreement is not None:
        lines.append(f"two halves of the corpus agree by {answer.agreement:.2f} (1 is the same)")
    return "\n".join(lines)


@seed_app.command("add")
def seed_add_command(
    name: str,
    path: Path,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="data/NAME[@V]", help="what it was trained on, where that is registered"
        ),
    ] = None,
    license: Annotated[str | None, typer.Option(metavar="SPDX-ID")] = None,
    fact: Facts = None,
    facts: FactsFile = None,
    attach: Attached = None,
    license_text: LicenceText = None,
    json: Json = False,
) -> None:
    """Register a dense checkpoint as a seed: a folder in Hugging Face format, or a GGUF file.

    Example: btx seed add base ./checkpoints/our-llama --license Apache-2.0

    Example: btx seed add small ./SmolLM2-135M-Instruct.Q4_1.gguf --license Apache-2.0
    """
    from pipelines.jobs.add_seed import add_seed

    workspace = find_workspace().stating(given_facts(fact, facts, attach, license_text))
    version = add_seed(workspace, name, path, data=data or (), license=license)
    _print_version(version, json)


@app.command("train")
def train_command(
    experts: Annotated[list[str], typer.Argument(metavar="EXPERT...")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="data/NAME[@V]", help="one for each expert, in order; default data/EXPERT"
        ),
    ] = None,
    seed: Annotated[
        str | None, typer.Option(metavar="seed/NAME[@V]", help="default: the only seed there is")
    ] = None,
    mode: Annotated[str | None, typer.Option(metavar="anchored|full")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML with [recipe.train] ... instead of btx.toml's"),
    ] = None,
    executor: Executor = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be trained, and where; write nothing")
    ] = False,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="train also what the gate would refuse, or seems not to fit"),
    ] = False,
    fact: Facts = None,
    facts: FactsFile = None,
    attach: Attached = None,
    json: Json = False,
) -> None:
    """Train copies of the seed side by side, one on each data version; register each as an expert.

    What the gate would refuse whatever training brings, it refuses before: duplicates of held-out
    text, licences, retention, conversations that the seed has no chat template for.

    Example: btx train math --data data/math
    """
    from pipelines.jobs.train import look_ahead, train
    from pipelines.workspace.settings_file import read_recipes
    from registry.records.answers.registering import registered

    require_choice("--mode", mode, ("anchored", "full"))
    chosen = executor_named(executor)
    corpora = data or [f"data/{expert}" for expert in experts]
    if len(corpora) != len(experts):
        raise typer.BadParameter(
            f"found {len(corpora)} for {len(experts)} experts, expected one for each",
            param_hint="--data",
        )
    workspace = find_workspace().stating(given_facts(fact, facts, attach))
    domains = dict(zip(experts, corpora, strict=True))
    if recipe is not None:
        workspace = workspace.training_by(read_recipes(recipe))
    if dry_run:
        plan = look_ahead(workspace, domains, seed=seed, mode=mode, executor=chosen, anyway=anyway)
        print_answer(plan, json, _forecast_text(plan))
        return
    branches = train(workspace, domains, seed=seed, mode=mode, executor=chosen, anyway=anyway)
    # Imported here: it loads torch, which nothing before needs.
    from pipelines.jobs.register_branches import register_branches

    versions = register_branches(workspace, branches, bar)
    if json and len(versions) > 1:
        print_json([registered(version) for version in versions])
        return
    for version in versions:
        _print_version(version, json)


@app.command("register")
def register_command(
    expert: str,
    path: Path,
    data: Annotated[
        list[str],
        typer.Option(metavar="data/NAME[@V]", help="what it was trained on; may be repeated"),
    ],
    seed: Annotated[
        str | None, typer.Option(metavar="seed/NAME[@V]", help="default: the only seed there is")
    ] = None,
    fact: Facts = None,
    facts: FactsFile = None,
    attach: Attached = None,
    json: Json = False,
) -> None:
    """Register a checkpoint that was trained elsewhere: full weights, or a LoRA adapter.

    Example: btx register legal ./checkpoints/legal --data data/legal
    """
    from pipelines.jobs.train import newest_seed
    from pipelines.workspace.folders import require_there

    workspace = find_workspace().stating(given_facts(fact, facts, attach))
    require_there(path)
    seed = seed or newest_seed(workspace)
    # Imported here: it loads torch, which nothing before needs.
    from pipelines.jobs.register import register

    _print_version(register(workspace, expert, path, data=data, seed=seed, show=bar), json)


def _forecast_text(plan: "TrainForecastAnswer") -> str:
    """Return a line for every branch, and one for where they would be trained."""
    lines = [f"{one.expert}   {one.action}   {one.seed}   {one.data}" for one in plan.branches]
    return "\n".join([*lines, f"  on      {place_text(plan.place)}"])


def _print_version(version: "Version[Recorded]", json: bool) -> None:
    from registry.records.answers.registering import registered

    answer = registered(version)
    text = f"{answer.ref}   {answer.status}   {answer.digest[:12]}"
    if answer.left_out:
        text += f"\nleft out, as no part of the model: {', '.join(answer.left_out)}"
    print_answer(answer, json, text)
