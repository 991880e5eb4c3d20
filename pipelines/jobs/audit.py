"""Audit one version and all that it was made from. Nothing is written.

The checks over rows, log, bytes and verdicts are the registry's; here they are given the folders,
what each build says of its tensors, and a judge. Folders that no row names are left by commands
that did not end. With `recompute` every build is mixed again from registered bytes and compared.
"""

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from btx_core.files import any_json
from btx_core.mixing.weight_files import SEED_EXPERT, expert_name
from btx_core.problems import BtxError, Unsupported
from pipelines.workspace.recipe_reader import recipe
from pipelines.workspace.workspace import Workspace, unfinished_mark
from registry.catalogue import checks, ledger, pins
from registry.catalogue.audit_log import Break, KeptHeads, check_kept, kept_heads, verify
from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import AuditContext, finding, row_findings
from registry.catalogue.database import Rows
from registry.digest import sha256_file
from registry.governance import adoption, due, people
from registry.governance.gaps import Gap, unconfirmed, ungated, ungated_anywhere, unsigned
from registry.governance.gate import judge_again
from registry.governance.out_of_use import out_of_use
from registry.governance.policy_files import load, read_strict_yaml
from registry.records.answers.auditing import AuditAnswer, Check, Finding
from registry.records.events import Erased
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    DvcFolder,
    ExpertFacts,
    ExportFacts,
    Facts,
    Held,
    SeedFacts,
)
from registry.records.heads import Head
from registry.records.references import parse
from registry.records.version import Version

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

T = TypeVar("T")
OnCheck = Callable[[Check], None]
_NUMBERED = re.compile(r"\.?(?P<number>\d+)(\.dvc|(?P<incoming>\.incoming))?")
# What a .dvc file may say that leads nobody to other bytes or to another place.
_DVC_REMARKS = frozenset({"size", "nfiles", "desc", "type", "labels", "meta"})
PROVENANCE = "provenance.json"
_FOLDERS: Mapping[type[Facts], str] = {
    DataFacts: "data/*/*",
    SeedFacts: "seeds/*/*",
    ExpertFacts: "experts/*/*",
    BuildFacts: "builds/*",
}


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """What an audit looks at beside the subject.

    Attributes:
        recompute: mix every build again and compare.
        head: a digest, or a file of heads, which must still be in the log.
        key: PEM of whoever signed the heads; their actor's on the list of people unless given.
    """

    recompute: bool = False
    head: str | None = None
    key: Path | None = None


def audit(
    workspace: Workspace,
    reference: str | None,
    request: AuditRequest | None = None,
    on_check: OnCheck = lambda check: None,
) -> AuditAnswer:
    """Run every check over the subject and its ancestors.

    Args:
        workspace: whose registry, store and folders are looked at.
        reference: the subject; None for everything that is registered.
        request: what else is looked at.
        on_check: called with each check, as far as it has come.
    """
    request = request or AuditRequest()
    workspace = replace(workspace, audited=True)
    catalog = workspace.catalog
    versions = _unless_damaged(catalog, lambda: _versions(catalog, reference)) or []
    builds = [one.of(BuildFacts) for one in versions if one.ref.kind == BuildFacts.kind]
    context = _unless_damaged(catalog, lambda: _context(workspace, versions, builds))
    outside = _files_of_heads(catalog, request)
    answer = checks.audit(
        catalog,
        reference,
        context or AuditContext(store=workspace.store, stored=frozenset()),
        signed=_checks_of_heads(workspace, outside, request),
        on_check=on_check,
    )
    answer = _with_torn_heads(answer, outside)
    attached = _unless_damaged(catalog, lambda: _attached(workspace))
    if attached and attached[0]:
        answer = _with_check(answer, "attachments", *attached)
    past = _unless_damaged(
        catalog, lambda: [finding("gates", *gap) for gap in _past_gates(catalog, reference)]
    )
    if past is not None:
        answer = _with_check(answer, "gates", len(versions), past)
    valid = _unless_damaged(catalog, lambda: adoption.adopted(catalog))
    if valid:
        answer = _with_check(answer, "policies", *_policies(workspace, valid))
        ended = _unless_damaged(catalog, lambda: _ended(workspace, versions))
        if ended is not None:
            answer = _with_check(answer, "due", len(versions), ended)
        pointers = _unless_damaged(catalog, lambda: _dvc_files(workspace, versions))
        if pointers:
            answer = _with_check(answer, "dvc", *pointers)
        acts = _unless_damaged(catalog, lambda: unsigned(catalog))
        if acts:
            named = [finding("acts", *gap) for gap in acts[1]]
            answer = _with_check(answer, "acts", acts[0], named)
    erased = _unless_damaged(catalog, lambda: _erased(workspace, versions))
    if erased and erased[0]:
        answer = _with_check(answer, "erased", *erased)
    unfinished = _unless_damaged(catalog, lambda: _unfinished(workspace))
    if unfinished:
        answer = _with_check(answer, "unfinished", *unfinished)
    kept = _unless_damaged(catalog, lambda: _ledger(workspace))
    if kept and kept[0]:
        answer = _with_check(answer, "ledger", *kept)
    if request.recompute:
        answer = _with_check(answer, "class", len(builds), _misfits(workspace, builds))
        again: list[Finding] = []
        for build in builds:
            again += _mixed_again(workspace, build, on_check)
        answer = _with_check(answer, "recompute", len(builds), again)
    has_head = any(file.heads for file in outside.values())
    notes = _unless_damaged(catalog, lambda: _notes(catalog, versions, has_head=has_head))
    return answer.model_copy(update={"notes": notes or ()})


def _versions(catalog: Catalog, reference: str | None) -> Sequence[Version[Facts]]:
    if reference is None:
        return checks.everything(catalog)
    return catalog.lineage(reference).nodes


def _past_gates(catalog: Catalog, reference: str | None) -> list[Gap]:
    """Return what went past a gate in the lineage of a version, or anywhere."""
    if reference is None:
        return ungated_anywhere(catalog, checks.everything(catalog))
    return ungated(catalog, reference)


def _policies(workspace: Workspace, valid: adoption.Adoption) -> tuple[int, list[Finding]]:
    """Compare the policies that lie in the workspace with the set that was adopted."""
    expected = f"the set {valid.digest[:12]}, adopted by {valid.actor} on {valid.at[:10]}"
    advice = "btx policy adopt --dry-run shows the difference; adopt it, or put the files back"
    try:
        policies = load(workspace.policies)
    except BtxError as error:
        return 0, [finding("policies", error.subject, error.found, expected, advice)]
    digest = adoption.set_digest(policies)
    if digest == valid.digest:
        return len(policies), []
    changed = adoption.differing(adoption.policies_of(workspace.catalog, valid), policies)
    found = f"the set {digest[:12]}, which differs in {', '.join(changed)}"
    return len(policies), [finding("policies", str(workspace.policies), found, expected, advice)]


def _erased(workspace: Workspace, versions: Sequence[Version[Facts]]) -> tuple[int, list[Finding]]:
    """Check that what was erased is gone here, and that two persons had it erased."""
    tombstones = workspace.catalog.tombstones()
    if not tombstones:
        return 0, []
    # Imported here: most audits need no DVC.
    from pipelines.workspace import erased_bytes

    audited = {str(version.ref) for version in versions}
    found = [finding("erased", *gap) for gap in unconfirmed(workspace.catalog)]
    examined = 0
    for ref in sorted(audited & tombstones.keys()):
        for one in tombstones[ref]:
            examined += len(one.part.files)
            advice = f"btx erase --confirm {_number(workspace.catalog, one.asked)}"
            for path in erased_bytes.still_here(workspace, one.part):
                where = f"{ref}, {path.relative_to(workspace.root)}"
                found.append(finding("erased", where, "erased bytes", "nothing", advice))
    return examined + len(found), found


def _ledger(workspace: Workspace) -> tuple[int, list[Finding]]:
    """Compare the text files of rows and log, which git keeps, with the registry."""
    if not workspace.ledger.is_dir():
        return 0, []
    with workspace.catalog.database.read() as rows:
        shared = workspace.own_registry is None
        examined, found = ledger.breaks(workspace.ledger, rows, shared=shared)
    advice = (
        f"{ledger.RESTORE} writes a file that is missing; git log -p names who changed one, and "
        "git checkout brings it back"
    )
    return examined, [finding("ledger", *one, advice) for one in found]


def _number(catalog: Catalog, digest: str) -> int | None:
    """Return the number of the event of this digest."""
    return next((one.seq for one in catalog.events(kind="erasure") if one.digest == digest), None)


def _attached(workspace: Workspace) -> tuple[int, list[Finding]]:
    """Read every file that was attached to something, wherever it is of."""
    attached = workspace.catalog.attached()
    damaged = [
        finding(
            "attachments",
            f"attachment of {', '.join(sorted(subjects))}",
            "no whole copy in the store",
            f"sha256 {sha256}",
            "attach the file again: btx fact set REF --attach KEY=FILE --why TEXT",
        )
        for sha256, subjects in sorted(attached.items())
        if not workspace.store.verify(sha256)
    ]
    return len(attached), damaged


def _dvc_files(
    workspace: Workspace, versions: Sequence[Version[Facts]]
) -> tuple[int, list[Finding]]:
    """Compare what each .dvc file here names with what was registered: other machines pull that."""
    examined, found = 0, []
    # An erasure takes the file away: what it names holds the erased bytes.
    tombstones = workspace.catalog.tombstones()
    for version in versions:
        if str(version.ref) in tombstones:
            continue
        folder = _folder(workspace, version)
        held = version.facts.dvc if isinstance(version.facts, Held) else None
        if held is None or folder is None:
            continue
        path = folder.with_name(f"{folder.name}.dvc")
        # Neither is here where another machine registered it, or another branch of git holds it.
        if not (path.is_file() or folder.is_dir()):
            continue
        examined += 1
        words = _otherwise(path, held)
        if words:
            subject = f"{version.ref}, {path.relative_to(workspace.root)}"
            advice = f"dvc add {folder}, once btx audit finds nothing in its files"
            expected = f"a .dvc file that names md5 {held.md5} and no other place"
            found.append(finding("dvc", subject, words, expected, advice))
    return examined, found


def _otherwise(path: Path, held: DvcFolder) -> str | None:
    """Say what a .dvc file names beside what was registered, for `dvc pull` to obey."""
    if path.is_symlink():
        return f"a link to {path.readlink()}"
    if not path.is_file():
        return "no .dvc file"
    try:
        read = read_strict_yaml(path)
    except (yaml.YAMLError, OSError):
        read = None
    match read:
        case {"outs": [dict(out)], **others}:
            named = {**others, **out}
        case _:
            return "not what DVC writes for one folder"
    expected = {"md5": held.md5, "hash": "md5", "path": path.stem}
    keys = sorted((named.keys() | expected.keys()) - _DVC_REMARKS)
    return ", ".join(
        f"{key} {named.get(key, 'none')}" for key in keys if named.get(key) != expected.get(key)
    )[:200]


def _ended(workspace: Workspace, versions: Sequence[Version[Facts]]) -> list[Finding]:
    """Find waivers and dates of retention that have ended, of what is in use of these versions."""
    gone = out_of_use(workspace.catalog)
    used = [version for version in versions if str(version.ref) not in gone]
    rows = due.of_versions(workspace.catalog, used, datetime.now(UTC), days=0)
    return [
        finding(
            "due", row.ref, f"{row.what} ended {row.until[:10]}", "nothing that ended", row.next
        )
        for row in rows
    ]


def _notes(
    catalog: Catalog, versions: Sequence[Version[Facts]], *, has_head: bool
) -> tuple[str, ...]:
    """Return what the audit cannot see, and what proves less than it seems."""
    notes = []
    if not has_head:
        notes.append(
            "no head from outside is known here: a log that was rewritten from end to end would not"
            " be seen (btx registry head, and --head)"
        )
    roll = people.Roll.read(catalog)
    if not people.has_auditor(roll.before()):
        notes.append(
            "the list of actors is open: names and approvals prove nobody until an auditor keeps it"
        )
    if roll.unconfirmed():
        notes.append(
            f"came while the list of actors was open, and no auditor signed for them: "
            f"{', '.join(roll.unconfirmed())} (btx actor add by an auditor, or btx actor remove)"
        )
    if adoption.awaits_auditor(catalog):
        notes.append("no policies were adopted: gates refuse until an auditor does it")
    elif adoption.adopted(catalog) is None:
        notes.append("no policies were adopted: any that lie there are asked (btx policy adopt)")
    return (*notes, *_erasures(catalog, versions))


def _erasures(catalog: Catalog, versions: Iterable[Version[Facts]]) -> list[str]:
    """Say of each version of which bytes were erased by whom and when, with the event."""
    audited = {str(version.ref) for version in versions}
    notes = []
    for event in catalog.events(kind="erased"):
        if event.subject not in audited:
            continue
        body = event.read(Erased)
        what = f"{len(body.part.files)} files for {len(body.part.documents)} documents"
        notes.append(
            f"{event.subject}: {what} erased, confirmed by {event.actor} on {event.at[:10]} "
            f"(event {event.seq}, asked for by event {_number(catalog, body.asked)})"
        )
    return notes


def _with_check(
    answer: AuditAnswer, name: str, examined: int, findings: Sequence[Finding]
) -> AuditAnswer:
    check = Check(name=name, ok=not findings, examined=examined)
    return answer.model_copy(
        update={
            "checks": (*answer.checks, check),
            "findings": (*answer.findings, *findings),
        }
    )


def _files_of_heads(catalog: Catalog, request: AuditRequest) -> dict[str, KeptHeads]:
    """Return the heads that were kept outside, by what holds them: the digest itself, or a file."""
    found = {request.head: kept_heads(request.head)} if request.head else {}
    pinned = pins.kept(catalog)
    if any(pinned):
        found[str(pins.file_of(catalog))] = pinned
    return found


def _checks_of_heads(
    workspace: Workspace, kept: Mapping[str, KeptHeads], request: AuditRequest
) -> list[Callable[[Rows], list[Break]]]:
    """Return a check for each head that was kept outside, bound to the key that signed it."""
    bound: list[Callable[[Rows], list[Break]]] = []
    every = [(source, head) for source, file in kept.items() for head in file.heads]
    for source, head in every:
        key = _unless_damaged(workspace.catalog, partial(_key, workspace, head, request.key))
        bound.append(partial(_check_kept, source=source, kept=head, key=key))
    return bound


def _with_torn_heads(answer: AuditAnswer, kept: Mapping[str, KeptHeads]) -> AuditAnswer:
    """Name the lines that hold no head in the files of heads."""
    expected = "a head of the log"
    advice = (
        "remove the line; of the file that releases, exports and withdrawals write, the next of "
        "them removes a last line that a crash left half written"
    )
    named = [
        finding("heads", f"{source}, line {number}", "no whole head", expected, advice)
        for source, file in kept.items()
        for number in file.unreadable
    ]
    return _with_check(answer, "heads", len(named), named) if named else answer


def _check_kept(rows: Rows, source: str, kept: Head, key: "Ed25519PublicKey | None") -> list[Break]:
    """Check a head that was kept outside; what differs is told with where the head is kept."""
    breaks = check_kept(rows, kept, key)
    if source == kept.head:
        return breaks
    return [one._replace(expected=f"{one.expected}, in {source}") for one in breaks]


def _unless_damaged(catalog: Catalog, look: Callable[[], T]) -> T | None:
    """Return None where rows or events that are not what was written are in the way.

    The checks of rows and log name them.
    """
    try:
        return look()
    except Exception:
        with catalog.database.read() as rows:
            if not (row_findings(rows)[1] or verify(rows)[1]):
                raise
        return None


def _context(
    workspace: Workspace,
    versions: Iterable[Version[Facts]],
    builds: Iterable[Version[BuildFacts]],
) -> AuditContext:
    folders_of, tensors = {}, {}
    for version in versions:
        folder = _folder(workspace, version)
        if folder is not None:
            folders_of[version.ref] = folder
        facts = version.facts
        if isinstance(facts, SeedFacts | ExpertFacts | BuildFacts) and facts.tensors:
            tensors[version.ref] = facts.tensors
    return AuditContext(
        store=workspace.store,
        folders=folders_of,
        # On another machine DVC brought the folders, and the store fills with use; what it has is
        # checked too.
        stored=frozenset(),
        sources={build.ref: _sources(workspace, build) for build in builds},
        tensors=tensors,
        judge=lambda event: judge_again(workspace.catalog, event).outcome,
    )


def _key(workspace: Workspace, kept: Head, file: Path | None) -> "Ed25519PublicKey | None":
    """Return the key that a kept head is checked with.

    A key of your own keeping is worth more: whoever can rewrite the log can rewrite the list of
    people in it.
    """
    if file is not None:
        return people.Actor("", (), file.read_text(encoding="utf-8")).key
    # As the list was then: who signed it may have another key by now.
    then = None if kept.seq is None else kept.seq + 1
    person = people.roll(workspace.catalog, then).get(str(kept.actor))
    return person.key if person else None


def _folder(workspace: Workspace, version: Version[Facts]) -> Path | None:
    """Return where the version's files are visible."""
    facts = version.facts
    if isinstance(facts, BuildFacts):
        return workspace.root / facts.folder if facts.folder else None
    if isinstance(facts, ExportFacts):
        # Where it was written; what was carried on from there is not ours to see.
        folder = Path(facts.folder or "")
        return folder if folder.is_dir() else None
    if isinstance(facts, Held) and facts.dvc:
        return workspace.root / facts.dvc.path
    return None


def _unfinished(workspace: Workspace) -> tuple[int, list[Finding]]:
    """Find version folders and .dvc files that no row names.

    While a command writes they are its own, and not looked at.
    """
    there = [path for pattern in _FOLDERS.values() for path in workspace.root.glob(pattern)]
    # Asked before the rows: what ended meanwhile has its row.
    if workspace.being_written:
        return 0, []
    known = set()
    for kind in _FOLDERS:
        for version in workspace.catalog.versions(kind, files=False):
            known.add(workspace.folder(version.ref))
    examined, findings = 0, []
    for path in sorted(there):
        numbered = _NUMBERED.fullmatch(path.name)
        if not numbered:
            continue
        examined += 1
        if numbered["incoming"] or path.with_name(numbered["number"]) not in known:
            subject = str(path.relative_to(workspace.root))
            advice = "run the command that did not end again, or remove it"
            if not unfinished_mark(workspace.root, path.with_name(numbered["number"])).exists():
                advice = (
                    "restore the newer registry that knows it, or register it again under the next "
                    "number and remove it; its number is not given again here"
                )
            findings.append(
                finding("unfinished", subject, "no row", "a registered version", advice)
            )
    return examined, findings


def _sources(workspace: Workspace, build: Version[BuildFacts]) -> dict[str, tuple[str, str]]:
    """Return where each tensor of the build's experts was taken from, byte for byte.

    None where the file that says so is not the registered one: the check of files names it.
    """
    if not build.facts.folder:
        return {}
    path = workspace.root / build.facts.folder / PROVENANCE
    registered = {file.sha256 for file in build.files if file.path == PROVENANCE}
    if not path.is_file() or checks.leads_out(path) or sha256_file(path) not in registered:
        return {}
    try:
        return _taken(build, any_json(path.read_text(encoding="utf-8"))["tensors"])
    # Registered by a stranger, in a form that this program never wrote.
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}


# Any: of JSON that is read here.
def _taken(build: Version[BuildFacts], recorded: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    members = {parse(member.ref).name: member.ref for member in build.facts.members}
    members[SEED_EXPERT] = build.facts.seed or ""
    sources = {}
    for name, entry in recorded.items():
        if expert_name(entry["file"]) and entry["rule"] == "take":
            first = entry["sources"][0]
            sources[name] = (members[first["member"]], first["tensor"])
    return sources


def _misfits(workspace: Workspace, builds: Sequence[Version[BuildFacts]]) -> list[Finding]:
    """Find what a stock loader would fill with random values in a build, or drop of it."""
    found = []
    for build in builds:
        folder = _folder(workspace, build)
        if (
            folder is None
            or not folder.is_dir()
            or any(checks.leads_out(folder / file.path) for file in build.files)
        ):
            # The check of the files says so.
            continue
        # Imported here: only this check and the next need torch.
        from btx_core.mixing.exporting import misfits_of_build

        try:
            misfits = misfits_of_build(folder)
        except Unsupported as error:
            found.append(finding("class", str(build.ref), error.found, error.expected, error.next))
        except BtxError:
            # What cannot be read is a finding of the check of the files.
            continue
        else:
            found += [
                finding("class", f"{build.ref}, {one.tensor}", one.found, one.expected, one.next)
                for one in misfits
            ]
    return found


def _mixed_again(
    workspace: Workspace, build: Version[BuildFacts], on_check: OnCheck
) -> list[Finding]:
    """Mix the build's snapshot from its registered checkpoints and compare what was written."""
    # Imported here: an audit without it runs without torch.
    from btx_core.mixing.mix import Member, MixRecipe, mix
    from pipelines.workspace import folders

    catalog, facts = workspace.catalog, build.facts

    def opened(ref: str) -> Path:
        return folders.opened(workspace.root, catalog.get(ref))

    try:
        members = [Member(parse(m.ref).name, m.slot, opened(m.ref)) for m in facts.members]
        seed = opened(facts.seed or "")
    except BtxError as error:
        return [finding("recompute", error.subject, error.found, error.expected, error.next)]
    # A clone has no work folder yet.
    workspace.work.mkdir(exist_ok=True)

    def progress(done: int, total: int, file: str) -> None:
        on_check(Check(name="recompute", ok=True, examined=done))

    with tempfile.TemporaryDirectory(dir=workspace.work) as scratch:
        out = Path(scratch) / "mixed"
        mix(seed, members, recipe(MixRecipe, facts.recipe.mix), out, progress=progress)
        now = {file.path: file.sha256 for file in folders.manifest(out)}
    advice = (
        "btx audit without --recompute names the damaged file; "
        "else compare the versions of btx and its libraries"
    )
    return [
        finding(
            "recompute",
            f"{build.ref}, {file.path}",
            f"sha256 {now.get(file.path)}",
            f"sha256 {file.sha256}",
            advice,
        )
        for file in facts.mixed
        if now.get(file.path) != file.sha256
    ]
