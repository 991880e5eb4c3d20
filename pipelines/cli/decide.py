"""The commands that decide: policies, what people sign, releases, withdrawals, aliases, notes."""

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import Build, Json, Ref, find_workspace
from pipelines.cli.output import print_answer, print_json, print_line, print_table

if TYPE_CHECKING:
    from registry.records.answers.deciding import PolicyCheckAnswer, PolicyTestAnswer
    from registry.records.answers.withdrawing import Reached, WithdrawAnswer
    from registry.records.base import JsonObject

REFUSED = 3

app = typer.Typer()
alias_app = typer.Typer(
    help="Names that move from version to version: production.", no_args_is_help=True
)
app.add_typer(alias_app, name="alias")
policy_app = typer.Typer(help="Policies.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")


@policy_app.command("check")
def policy_check_command(ref: Ref, json: Json = False) -> None:
    """Say what the gates would say of REF now. Status 3 if one would refuse.

    Example: btx policy check build/2
    """
    from pipelines.jobs.policy import check

    answer = check(find_workspace(), ref)
    if json:
        print_json(answer)
    else:
        _print_verdicts(answer)
    if any(verdict.outcome == "refused" for verdict in answer.verdicts.values()):
        raise typer.Exit(REFUSED)


def _print_verdicts(answer: "PolicyCheckAnswer") -> None:
    """Print each gate's outcome, then its rules that did not simply allow, with their remedy."""
    for gate, verdict in answer.verdicts.items():
        print_line(f"{answer.ref} at gate {gate}: {verdict.outcome}")
        for rule in verdict.rules:
            if rule.outcome == "allowed":
                continue
            print_line(f"  {rule.outcome}  {rule.policy}/{rule.rule}: {rule.message}")
            print_line(f"    next: {rule.remedy}")


@policy_app.command("test")
def policy_test_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="one policy; default: all")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="of the policies; default: policies/"),
    ] = None,
    json: Json = False,
) -> None:
    """Judge every case of policies/tests; status 1 if one comes out otherwise than it says.

    A rule that no case breaks counts as a failed case.

    Example: btx policy test licence
    """
    from registry.governance import policy_files, policy_tests
    from registry.records.answers.deciding import FailedCase, PolicyTestAnswer

    folder = folder or find_workspace().policies
    loaded, results = policy_files.load(folder), policy_tests.run(folder, name)
    loaded = [policy for policy in loaded if name in (None, policy.name)]
    failed = [result for result in results if not result.ok]
    answer = PolicyTestAnswer(
        policies=len(loaded),
        rules=sum(len(policy.validations) for policy in loaded),
        cases=len(results),
        failed=tuple(FailedCase(**vars(result)) for result in failed),
    )
    if json:
        print_json(answer)
    else:
        _print_test(answer)
    if failed:
        raise typer.Exit(1)


@policy_app.command("adopt")
def policy_adopt_command(
    why: Annotated[str, typer.Option(metavar="TEXT")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show what would change, adopt nothing")
    ] = False,
    json: Json = False,
) -> None:
    """Make the policies that lie in policies/ the valid set, and show what changes.

    Gates refuse to judge by any other set. What facts.yaml declares is adopted with it. Once an
    auditor keeps the list of actors, an auditor signs this.

    Example: btx policy adopt --why "counsel agreed to CC-BY-NC-4.0 for research"
    """
    from pipelines.jobs.policy import adopt

    answer = adopt(find_workspace(), why, dry_run=dry_run)
    if json:
        print_json(answer)
        return
    for line in answer.changes:
        print_line(f"  {line}")
    print_line(f"{answer.policies} policies   {answer.status}   {answer.digest[:12]}")
    if answer.facts != "unchanged":
        print_line(f"facts.yaml   {answer.facts}")


@policy_app.command("try")
def policy_try_command(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="default: policies/ as it lies there")
    ] = None,
    json: Json = False,
) -> None:
    """Judge all that is in use by today's or by proposed policies; nothing is logged.

    Status 3 if one of them would be refused that was let in before.

    Example: btx policy try ./proposed-policies
    """
    from pipelines.jobs.policy import try_out

    rows = try_out(find_workspace(), folder)
    if json:
        print_json(rows)
    else:
        lines = [[row.ref, row.gate, row.logged, row.now, ", ".join(row.rules)] for row in rows]
        print_table(("ref", "gate", "logged", "now", "refused by"), lines)
    if any(row.now == "refused" and row.logged not in (None, "refused") for row in rows):
        raise typer.Exit(REFUSED)


def _print_test(answer: "PolicyTestAnswer") -> None:
    for case in answer.failed:
        print_line(f"FAIL  {case.suite}: {case.case}")
        print_line(f"  found {case.found}   expected {case.expected}")
    policies = "policy" if answer.policies == 1 else "policies"
    counts = f"{answer.policies} {policies}, {answer.rules} rules, {answer.cases} cases"
    print_line(f"{counts}: {len(answer.failed) or 'none'} failed")


@app.command("approve")
def approve_command(
    ref: Ref, why: Annotated[str, typer.Option(metavar="TEXT")] = "", json: Json = False
) -> None:
    """Sign that this very version may be released; by an approver who did not register it.

    Example: btx approve build/2 --why "evaluation reviewed"
    """
    from registry.governance import approving, keys
    from registry.records.answers.deciding import ApprovedAnswer

    catalog = find_workspace().catalog
    event = approving.approve(catalog, ref, keys.signer(catalog.actor), why)
    answer = ApprovedAnswer(ref=event.subject, approved_by=event.actor, at=event.at)
    print_answer(answer, json, f"{event.subject}   approved by {event.actor}")


@app.command("retract")
def retract_command(
    ref: Ref,
    why: Annotated[str, typer.Option(metavar="TEXT")],
    rule: Annotated[
        str | None,
        typer.Option(metavar="POLICY/RULE", help="the waiver of it; default: the approval"),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--of", metavar="NAME", help="whose, for an auditor"),
    ] = None,
    json: Json = False,
) -> None:
    """Take an approval or a waiver back, so that it counts no more. The log keeps both.

    Example: btx retract build/2 --why "the figures were measured on the wrong text"

    Example: btx retract data/legal@1 --rule licence/allowed --why "the contract ended"
    """
    from pipelines.jobs.people_list import retract

    answer = retract(find_workspace(), ref, rule, by, why)
    print_answer(answer, json, f"{answer.ref}   {answer.what} by {answer.of} retracted")


@app.command("waive")
def waive_command(
    rule: Annotated[
        str, typer.Argument(metavar="RULE", help="POLICY/RULE, as the refusal names it")
    ],
    ref: Ref,
    until: Annotated[str, typer.Option(metavar="DATE", help="the last day, ISO")],
    why: Annotated[str, typer.Option(metavar="TEXT")],
    json: Json = False,
) -> None:
    """Sign an exception to one rule until one date, for the content that the rule has judged.

    Other content under the same name, or other facts that the rule reads, need another waiver.

    Example: btx waive licence/allowed data/legal@1 --until 2026-12-31 --why "contract 4711"
    """
    from registry.governance import approving, gate, keys, policies, policy_files
    from registry.records.answers.deciding import WaivedAnswer

    workspace = find_workspace()
    catalog = workspace.catalog
    policies.require_waivable(policy_files.load(workspace.policies), rule)
    signer = keys.signer(catalog.actor)
    grant = gate.grant(catalog, rule, ref)
    event = approving.waive(catalog, grant, signer, until=until, why=why)
    answer = WaivedAnswer(
        rule=rule,
        ref=event.subject,
        until=until,
        waived_by=event.actor,
        content=grant.content,
        excused=grant.excused,
    )
    print_answer(answer, json, f"{event.subject}   {rule} waived until {until} by {event.actor}")
    if not json:
        print_line(f"  for content {grant.content[:12]} with {_facts(grant.excused)}, nothing else")


def _facts(excused: "JsonObject") -> str:
    return ", ".join(f"{name} {dumps(value)[:60]}" for name, value in excused.items()) or "no facts"


@app.command("due")
def due_command(
    days: Annotated[float, typer.Option(help="how far to look ahead")] = 30, json: Json = False
) -> None:
    """List what has ended and what ends soon: waivers, dates of retention, tokens.

    Example: btx due --days 90
    """
    from pipelines.jobs.due_dates import due_dates

    rows = due_dates(find_workspace(), days)
    if json:
        print_json(rows)
        return
    lines = [[row.state, row.until[:10], row.what, row.ref, row.next] for row in rows]
    print_table(("state", "until", "what", "of", "next"), lines)


@app.command("release")
def release_command(build: Build, json: Json = False) -> None:
    """Release a build, if the policies of gate release allow it.

    Example: btx release build/2
    """
    from pipelines.jobs.release import release

    answer = release(find_workspace(), build)
    print_answer(answer, json, f"{answer.ref}   {answer.status}")


@app.command("withdraw")
def withdraw_command(
    ref: Ref,
    why: Annotated[str, typer.Option(metavar="TEXT")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what it would reach, withdraw nothing")
    ] = False,
    json: Json = False,
) -> None:
    """Take a version out of use, for good; say what it reached and what cures it.

    With --dry-run it is only said what it would reach.

    Example: btx withdraw data/code@1 --why "the holder withdrew consent" --dry-run
    """
    from pipelines.jobs.withdraw import withdraw

    answer = withdraw(find_workspace(), ref, why, dry_run=dry_run)
    if json:
        print_json(answer)
    else:
        _print_withdrawal(answer, "would be withdrawn" if dry_run else "withdrawn")


@app.command("contest")
def contest_command(
    ref: Ref,
    why: Annotated[str, typer.Option(metavar="TEXT", help="kept outside the log")],
    json: Json = False,
) -> None:
    """Contest the withdrawal of REF. It stands; everything that shows it shows this too.

    Example: btx contest data/code@1 --why "consent covers this use, see contract 4711"
    """
    from pipelines.jobs.withdraw import contest

    answer = contest(find_workspace(), ref, why)
    text = f"{answer.ref}   withdrawal by {answer.withdrawn_by} contested by {answer.contested_by}"
    print_answer(answer, json, text)


def _print_withdrawal(answer: "WithdrawAnswer", deed: str) -> None:
    """Print what was withdrawn, what it reached, what it did not reach, and the next step."""
    print_line(f"{answer.ref}   {deed}: {answer.why}")
    for item in answer.reached:
        print_line(f"  reached {_reached(item)}")
    for build in answer.clean:
        print_line(f"  clean   {build}   nothing in it comes from there")
    if answer.next:
        print_line(f"next: {answer.next}")


def _reached(item: "Reached") -> str:
    parts = [item.ref]
    if item.folder:
        parts.append(f"in {item.folder}")
    why = (item.why or "").replace("_", " ")
    if item.removal:
        parts.append(f"removal: {item.removal}, {why}")
    elif why:
        parts.append(why)
    return "   ".join(parts)


@alias_app.command("set")
def alias_set_command(
    alias: str,
    ref: Ref,
    why: Annotated[str, typer.Option(metavar="TEXT")] = "",
    json: Json = False,
) -> None:
    """Let a name stand for REF from now on, wherever a reference may be given.

    Example: btx alias set production build/7
    """
    from pipelines.jobs.annotate import move_alias

    answer = move_alias(find_workspace(), alias, ref, why)
    before = f"   before {answer.before}" if answer.before else ""
    print_answer(answer, json, f"{answer.alias}   {answer.ref}{before}")


@alias_app.command("list")
def alias_list_command(json: Json = False) -> None:
    """List what each name stands for now.

    Example: btx alias list
    """
    from pipelines.jobs.annotate import aliases

    rows = aliases(find_workspace())
    if json:
        print_json(rows)
        return
    lines = [[row.alias, row.ref, row.status, row.set_by, row.since] for row in rows]
    print_table(("alias", "ref", "status", "set by", "since"), lines)


@alias_app.command("remove")
def alias_remove_command(
    alias: str, why: Annotated[str, typer.Option(metavar="TEXT")] = "", json: Json = False
) -> None:
    """Let a name stand for nothing any more. The log keeps what it stood for.

    Example: btx alias remove production
    """
    from pipelines.jobs.annotate import remove_alias

    answer = remove_alias(find_workspace(), alias, why)
    print_answer(answer, json, f"{answer.alias}   no longer {answer.before}")


@app.command("note")
def note_command(
    ref: Ref, text: Annotated[str, typer.Argument(metavar="TEXT")], json: Json = False
) -> None:
    """Write a note on REF, for everybody who looks at it.

    Example: btx note expert/legal@2 "trained on the contracts of 2025 alone"
    """
    from pipelines.jobs.annotate import note

    answer = note(find_workspace(), ref, text)
    print_answer(answer, json, f"{answer.ref}   noted by {answer.actor}")


@app.command("retire")
def retire_command(
    ref: Ref, why: Annotated[str, typer.Option(metavar="TEXT")], json: Json = False
) -> None:
    """Say that REF was registered by mistake, before anything was made from it.

    Its number is never given again; the same content may be registered anew.

    Example: btx retire data/legal@3 --why "the holder was mistyped"
    """
    from pipelines.jobs.annotate import retire

    answer = retire(find_workspace(), ref, why)
    print_answer(answer, json, f"{answer.ref}   {answer.status}: {answer.why}")
