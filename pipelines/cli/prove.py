"""The commands that prove and preserve: audit, and registry with its own commands."""

from datetime import UTC, datetime
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import Json, find_workspace, registered
from pipelines.cli.output import print_answer, print_json, print_line
from pipelines.workspace.bars import bar
from pipelines.workspace.new_files import write_new
from pipelines.workspace.terminal import cell
from registry.units import counted

if TYPE_CHECKING:
    from registry.catalogue.catalog import Catalog
    from registry.records.answers.auditing import AuditAnswer, Check, HeadAnswer

AUDIT_FINDINGS = 4

app = typer.Typer()
registry_app = typer.Typer(
    help="The registry as a whole: its log's head, a copy in plain files, cleaning up.",
    no_args_is_help=True,
)
app.add_typer(registry_app, name="registry")


@app.command("audit")
def audit_command(
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="[REF]",
            help="default: everything that is registered",
            autocompletion=registered,
        ),
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="mix again from the registered bytes and compare")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST|FILE",
            help="the log must still contain this head, or those of a file: btx registry head",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM of whoever signed the heads; default: as recorded"),
    ] = None,
    json: Json = False,
) -> None:
    """Check REF and all that it was made from: bytes, rows, log, verdicts. Status 4: findings.

    Example: btx audit build/7 --head heads.json

    Example: btx audit
    """
    from pipelines.jobs.audit import AuditRequest, audit

    request = AuditRequest(recompute=recompute, head=head, key=key)
    workspace = find_workspace()
    with bar("audit") as progress:

        def show_check(check: "Check") -> None:
            progress(check.examined, 0, check.name)

        answer = audit(workspace, ref, request, show_check)
    if json:
        print_json(answer)
    else:
        _print_audit(answer)
    if answer.findings:
        raise typer.Exit(AUDIT_FINDINGS)


def _print_audit(answer: "AuditAnswer") -> None:
    """Print the checks, a line each, then the findings with their next step."""
    print_line(f"{answer.subject}   head {answer.head[:12]}")
    for check in answer.checks:
        outcome = "ok" if check.ok else "FAIL"
        print_line(f"  {outcome:4}  {check.name:10}  {check.examined} examined")
    for finding in answer.findings:
        print_line(f"  {finding.check}: {cell(finding.subject)}")
        print_line(f"    found {cell(finding.found)}")
        print_line(f"    expected {cell(finding.expected)}")
        print_line(f"    next {finding.next}")
    for note in answer.notes:
        print_line(f"  note: {note}")
    print_line(counted(len(answer.findings), "finding") if answer.findings else "no findings")


@app.command("repair")
def repair_command(
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="[REF]",
            help="default: everything that is registered",
            autocompletion=registered,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Restore damaged and missing files from any whole copy: store, folders, DVC's cache or remote.

    Status 1 if a file has no whole copy; it is said what must be made again.

    Example: btx repair build/7
    """
    from pipelines.jobs.repair import repair

    with bar("repair") as progress:
        answer = repair(find_workspace(), ref, progress)
    if json:
        print_json(answer)
    else:
        for file in answer.repaired:
            print_line(f"  restored  {file.path}\n    from {file.source}")
        for lost in answer.lost:
            print_line(f"  lost      {lost.path}\n    next {lost.next}")
        restored, gone = len(answer.repaired), len(answer.lost)
        print_line(f"{answer.examined} examined, {restored} restored, {gone} without a whole copy")
    if answer.lost:
        raise typer.Exit(1)


@app.command("upgrade")
def upgrade_command(
    apply: Annotated[
        bool, typer.Option("--apply", help="copy the policies that are lacking, and adopt the set")
    ] = False,
    json: Json = False,
) -> None:
    """Show what an older workspace lacks beside a new one; with --apply, take the steps.

    Example: btx upgrade
    """
    from pipelines.jobs.upgrade import upgrade

    steps = upgrade(find_workspace(), apply=apply)
    if json:
        print_json(steps)
        return
    for step in steps:
        print_line(f"{'done' if step.done else 'to do'}  {step.what}\n  why {step.why}")
        if not step.done:
            print_line(f"  next {step.command}")
    if not steps:
        print_line("nothing is lacking")


@registry_app.command("head")
def registry_head_command(
    sign: Annotated[bool, typer.Option("--sign", help="by the acting person's key")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE")] = None,
    json: Json = False,
) -> None:
    """Say the log's head, to be kept where nobody who can write the registry can write.

    A head that is kept outside shows what the chain alone cannot: a tail that was cut off, or a
    chain that was written anew from end to end. `btx audit REF --head FILE` checks it.

    Example: btx registry head --sign -o /mnt/elsewhere/head-2026-03-01.json

    Example: git notes --ref=btx append -m "$(btx registry head --json)"
    """
    answer = _head(find_workspace().catalog, sign=sign)
    if out is not None:
        write_new({out: (dumps(answer.to_json(), indent=1) + "\n").encode()})
    print_answer(answer, json, f"{answer.head}   event {answer.seq}")


def _head(catalog: "Catalog", *, sign: bool) -> "HeadAnswer":
    """Return what the log's head is, on request signed by the acting person."""
    from registry.catalogue import audit_log
    from registry.governance import keys
    from registry.records.answers.auditing import HeadAnswer

    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with catalog.database.read() as rows:
        if sign:
            statement = audit_log.sign_head(rows, keys.signer(catalog.actor).key, at)
        else:
            statement = audit_log.head_statement(rows, at)
    return HeadAnswer(**{**statement.to_json(), "actor": catalog.actor})


@registry_app.command("dump")
def registry_dump_command(folder: Path, json: Json = False) -> None:
    """Write the whole registry, its rows, log and files, into a new folder of plain files.

    Example: btx registry dump ./registry-2026-03-01
    """
    from pipelines.jobs.archive import dump

    answer = dump(find_workspace(), folder)
    objects = counted(answer.objects, "object")
    lines = [f"{answer.folder}   {objects}   head {answer.head}"]
    if answer.missing:
        lost = counted(len(answer.missing), "file")
        lines.append(f"left out   {lost} that nothing here holds: registry.json names them")
        lines.append("  next btx repair")
    if answer.erased:
        lines.append(f"left out   {counted(answer.erased, 'file')} that were erased")
    print_answer(answer, json, "\n".join(lines))


@registry_app.command("load")
def registry_load_command(folder: Path, json: Json = False) -> None:
    """Fill this new, empty workspace with what `btx registry dump` wrote.

    Digests, log and head are the same afterwards.

    Example: btx registry load ../registry-2026-03-01
    """
    from pipelines.jobs.archive import load

    answer = load(find_workspace(), folder)
    objects = counted(answer.objects, "object")
    print_answer(answer, json, f"loaded {objects}   head {answer.head}")


@registry_app.command("backup")
def registry_backup_command(folder: Path, json: Json = False) -> None:
    """Write the registry's rows and log into a new folder; the registry may be in use.

    The files of versions are not in it: DVC's remote holds those.

    Example: btx registry backup /mnt/backups/registry-2026-03-01
    """
    from pipelines.jobs.archive import backup

    answer = backup(find_workspace(), folder)
    print_answer(answer, json, f"{answer.folder}   head {answer.head}")


@registry_app.command("restore")
def registry_restore_command(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="a backup; default: ledger/")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="of a forked ledger: the newest event that is kept"),
    ] = None,
    json: Json = False,
) -> None:
    """Bring the registry what ledger/ has and it lacks, or fill an empty one with a backup.

    Folders of versions stay as they are. Those that no row names are listed; their numbers are not
    given again.

    Example: btx registry restore

    Example: btx registry restore /mnt/backups/registry-2026-03-01
    """
    from pipelines.jobs.archive import read_ledger, restore

    workspace = find_workspace()
    if folder is None or folder.resolve() == workspace.ledger:
        answer = read_ledger(workspace, head)
    else:
        answer = restore(workspace, folder)
    newer = "".join(f"\nnewer than the registry: {name}" for name in answer.newer)
    again = "".join(f"\nto be registered again: {ref}" for ref in answer.again)
    acts = "".join(f"\nto be done again: {act}" for act in answer.acts)
    print_answer(answer, json, f"restored   head {answer.head}{newer}{again}{acts}")


@registry_app.command("shred")
def shred_command(
    number: Annotated[int, typer.Argument(metavar="N", help="of the event")], json: Json = False
) -> None:
    """Forget the words behind event N: why, and about whom, something was erased or contested.

    The log keeps their salted digest, which nobody can guess again.

    Example: btx registry shred 57
    """
    from pipelines.jobs.archive import shred

    answer = shred(find_workspace(), number)
    print_answer(answer, json, f"event {answer.number} on {answer.ref}   words forgotten")


@registry_app.command("gc")
def registry_gc_command(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would go, delete nothing")
    ] = False,
    json: Json = False,
) -> None:
    """Delete stored bytes that no registered version needs, here and in DVC's cache.

    What was withdrawn is still needed: audits read it.

    Example: btx registry gc --dry-run
    """
    from pipelines.jobs.archive import collect

    answer = collect(find_workspace(), dry_run=dry_run)
    objects = counted(len(answer.deleted), "object")
    left = "".join(f"\nleft as it is: {reason}" for reason in answer.skipped)
    print_answer(answer, json, f"{objects} {'would go' if dry_run else 'deleted'}{left}")
