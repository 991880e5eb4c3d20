"""Erase a data version, or some documents of it, for good: ask, confirm, delete.

In:  a data version, whose documents are meant, and why.
Out: first what it costs; then, once a second person confirms it, the bytes are gone and signed
tombstones stay.
All data versions that hold the same files or documents lose them. A file that holds an erased
document goes whole; what is left of its rows, and the version's other files, are laid in
work/left, to be registered as a new version. Other files below the workspace lose the documents
too: what an earlier erasure laid out, and corpora that were never registered.
Who may do what is `governance.erasure`'s, where the bytes lie `workspace.erased_bytes`'s and
`workspace.loose_texts`'s.
"""

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from btx_core.columns import Document, Unreadable
from btx_core.corpus_files import Reading
from btx_core.corpus_rest import write_rest
from btx_core.files import copy_file
from btx_core.measuring import overlap
from btx_core.texts import TextFolder, every_document, refuse_unusable
from pipelines.workspace import erased_bytes, folders, loose_texts
from pipelines.workspace.workspace import Workspace
from registry.catalogue import tombstones
from registry.errors import NotFound
from registry.governance import acts, cures, erasure, people, private_words
from registry.governance.erasure import Selection
from registry.records.answers.withdrawing import EraseAnswer, ErasureCost, Reached, TrainAgain
from registry.records.events import Act, ErasedFile, ErasedPart, ErasureAsked
from registry.records.facts import DataFacts, ExpertFacts, ExportFacts, SeedFacts, Sketch
from registry.records.kinds import UNUSABLE
from registry.records.references import Reference, parse
from registry.records.version import FileFact, Version

SHORTEST_DIGEST = 12
OPEN = "the list of actors is open: two names are behind this, and prove nobody"


@dataclass(frozen=True)
class _Plan:
    """What would go: the parts of the versions, and a sample of the text."""

    parts: tuple[ErasedPart, ...]
    sketch: Sketch
    unreached: tuple[str, ...]


def look_ahead(workspace: Workspace, selection: Selection) -> EraseAnswer:
    """Say what an erasure would take away and cost; nothing is logged."""
    planned = _plan(workspace, selection)
    return _answer(workspace, planned.parts, "planned", planned.unreached)


def drafted(workspace: Workspace, selection: Selection) -> tuple[Act, ...]:
    """Return what the acting person signs to ask for an erasure. Raises as `ask` does."""
    return erasure.drafted(workspace.catalog, _plan(workspace, selection).parts)


def drafted_confirmation(workspace: Workspace, number: int) -> tuple[Act, ...]:
    """Return what the acting person signs to confirm an erasure. Raises as `confirm` does."""
    catalog = workspace.catalog
    return erasure.drafted_confirmation(catalog, erasure.asked(catalog, number))


def waiting(workspace: Workspace) -> list[EraseAnswer]:
    """Return the erasures that wait for a second person, each with what it would cost now."""
    answers = []
    for event in erasure.waiting(workspace.catalog):
        body = event.read(ErasureAsked)
        words = private_words.read(workspace.private, body.private)
        answer = _answer(workspace, body.parts, "asked", ())
        told = {"number": event.seq, "why": words["why"] if words else None}
        answers.append(answer.model_copy(update=told))
    return answers


def ask(
    workspace: Workspace, selection: Selection, why: str, sent: acts.Sent | None = None
) -> EraseAnswer:
    """Ask that bytes be erased, for another person to confirm.

    Reason and selection are kept on this machine, their salted digest in the log.

    Args:
        workspace: where they lie.
        selection: what is to go.
        why: the reason.
        sent: what the acting person signed elsewhere.

    Raises:
        NotFound: for documents that the version does not hold.
        Invalid: without a reason.
    """
    acts.require_reason(f"erasure of {selection.ref}", why)
    planned = _plan(workspace, selection)
    answer = _answer(workspace, planned.parts, "asked", planned.unreached)
    words, catalog = {"why": why, **selection.stated()}, workspace.catalog
    with private_words.kept(workspace.private, words, catalog) as private:
        event = erasure.ask(catalog, planned.parts, planned.sketch, private, sent)
    advice = f"let an approver or auditor confirm it: btx erase --confirm {event.seq}"
    return answer.model_copy(update={"number": event.seq, "why": why, "next": advice})


def confirm(workspace: Workspace, number: int, sent: acts.Sent | None = None) -> EraseAnswer:
    """Confirm an erasure that somebody else asked for, and delete the bytes.

    Once it is confirmed anybody may run this again, here or where another copy of the workspace
    lies: it deletes what is there.

    Args:
        workspace: where they lie.
        number: of the event that asked for it.
        sent: what the acting person signed elsewhere.

    Raises:
        Refused: for whoever asked for it.
        Conflict: where other versions hold it by now.
    """
    catalog = workspace.catalog
    event = erasure.asked(catalog, number)
    body = event.read(ErasureAsked)
    now = _holders(workspace, _sha256s(body.parts), _texts(body.parts))
    answer = _answer(workspace, body.parts, "erased", now.unreached)
    # The tombstones come first: a running training or rebuild stops at them.
    erasure.confirm(catalog, event, now.parts, sent)
    with workspace.writing(f"erase --confirm {number}"):
        rest = {part.ref: _lay_out_rest(workspace, part) for part in body.parts if not part.whole}
        erased_bytes.remove(workspace, body.parts)
        loose_texts.remove(workspace, _texts(body.parts), _readings(workspace, body.parts))
    words = private_words.read(workspace.private, body.private)
    left = {
        ref: str(path.relative_to(workspace.root)) for ref, path in rest.items() if path is not None
    }
    again, names = list[str](), list[str]()
    for ref, path in left.items():
        version = catalog.get(ref, DataFacts)
        command = _registered_again(version, path)
        lacking = _lacking(folders.text_as_stated(workspace.root / path, version.facts))
        if lacking:
            again.append(f"{path} alone is no corpus ({lacking}): add text to it, then {command}")
        else:
            again.append(command)
            names.append(version.ref.name)
    told = {
        "number": number,
        "why": words["why"] if words else None,
        "left": tuple(left.values()),
        "next": "; ".join([*again, *_cures(workspace, answer.cost, names)]) or None,
    }
    return answer.model_copy(update=told)


def _cures(workspace: Workspace, cost: ErasureCost, laid_out: Collection[str]) -> list[str]:
    """Return the commands that make again what an erasure took: experts, then product lines.

    An expert of data of which nothing is left to be registered cannot be trained again.
    """
    catalog = workspace.catalog
    statuses = catalog.statuses(catalog.versions(DataFacts, files=False))
    left = {*laid_out, *(ref.name for ref in statuses if statuses[ref] not in UNUSABLE)}
    trained = []
    for one in cost.experts:
        expert = catalog.get(one.ref, ExpertFacts)
        if {parse(data).name for data in expert.facts.data} <= left:
            trained.append(_trained_again(workspace, expert, cost.versions))
    lines = cures.reached_lines(catalog, {build.ref for build in cost.builds})
    if lines and not trained and not cures.is_expert_left(catalog, ()):
        return [cures.NO_EXPERT_LEFT]
    return [*trained, *map(cures.rebuild_command, lines)]


def _lacking(text: TextFolder) -> str:
    """Say what a folder lacks to be registered; empty: nothing."""
    try:
        refuse_unusable(text)
    except Unreadable as error:
        return error.found
    return ""


def _registered_again(version: Version[DataFacts], path: str) -> str:
    """Return the command that registers what is left of a version, with what was stated of it."""
    facts = version.facts
    stated = {key: value for key, value in facts.stated().items() if value is not None}
    if facts.reading and facts.reading.text_field:
        stated["text_field"] = facts.reading.text_field
    options = [word for key in stated for word in (f"--{key.replace('_', '-')}", stated[key])]
    return shlex.join(["btx", "data", "add", version.ref.name, path, *options])


def _trained_again(
    workspace: Workspace, version: Version[ExpertFacts], erased: Collection[str]
) -> str:
    """Return the command that makes an expert again, on what is left of its data."""
    name, facts = version.ref.name, version.facts
    # What is left of erased data is another version of that name, the newest.
    data = [one.partition("@")[0] if one in erased else one for one in facts.data]
    options = "".join(f" --data {one}" for one in data)
    if len(workspace.catalog.versions(SeedFacts, files=False)) > 1:
        options += f" --seed {facts.seed}"
    # A training here is on one data version; more were trained on elsewhere.
    return f"btx register {name} PATH{options}" if len(data) > 1 else f"btx train {name}{options}"


def _plan(workspace: Workspace, selection: Selection) -> _Plan:
    version = workspace.catalog.get(selection.ref, DataFacts)
    known = tombstones.files(workspace.catalog.tombstones()).get(str(version.ref), frozenset())
    files = [file for file in version.files if file.bytes and file.sha256 not in known]
    if selection.file is not None:
        files = [file for file in files if file.path == selection.file]
    texts: dict[str, bytes] = {}
    if selection.document is not None or selection.author is not None or files:
        chosen = _chosen(workspace, version, selection, {file.path for file in files})
        texts = {document.digest: document.plain for _, document in chosen}
        if selection.document is not None or selection.author is not None:
            paths = {path for path, _ in chosen}
            files = [file for file in files if file.path in paths]
    if not files:
        named = ", ".join(f"{name} {value}" for name, value in selection.stated().items())
        raise NotFound(
            str(version.ref),
            found=f"nothing that is {named}",
            expected="a file or document of the version",
            next=f"btx show {version.ref}, or name the document by its digest",
        )
    found = _holders(workspace, {file.sha256 for file in files}, texts.keys())
    return replace(found, sketch=Sketch.of(*overlap.sketch_of(texts.values())))


def _chosen(
    workspace: Workspace,
    version: Version[DataFacts],
    selection: Selection,
    paths: Iterable[str],
) -> list[tuple[str, Document]]:
    """Return the documents in these files that are meant, each with the path of its file."""
    ref, wanted = version.ref, set(paths)
    folder = workspace.folder(ref)
    folders.require_here(folder, str(ref))
    return [
        (path, document)
        for path, document in _documents(folders.text_as_stated(folder, version.facts))
        if path in wanted and _is_meant(document, selection)
    ]


def _documents(text: TextFolder) -> Iterator[tuple[str, Document]]:
    """Yield every document that holds any text, with the path of its file."""
    return ((path, document) for path, document in every_document(text) if document.plain)


def _is_meant(document: Document, selection: Selection) -> bool:
    if selection.author is not None:
        return selection.author in document.about.authors
    if selection.document is None:
        return True
    name = selection.document
    by_digest = len(name) >= SHORTEST_DIGEST and document.digest.startswith(name)
    return document.about.id == name or by_digest


@dataclass
class _Held:
    """What one data version holds of what is to go.

    Attributes:
        version: the version.
        files: those of its files that are not erased yet, by path.
        documents: digests of the documents that go, by path.
        stays: the paths of files in which other documents stay.
    """

    version: Version[DataFacts]
    files: Mapping[str, FileFact]
    documents: dict[str, set[str]] = field(default_factory=dict)
    stays: set[str] = field(default_factory=set)

    def paths(self, sha256s: Iterable[str]) -> set[str]:
        wanted = set(sha256s)
        return {path for path, file in self.files.items() if file.sha256 in wanted} | (
            self.documents.keys() & self.files.keys()
        )


def _holders(workspace: Workspace, sha256s: Iterable[str], texts: Iterable[str]) -> _Plan:
    """Return what of all data versions goes with these files and documents.

    Args:
        workspace: where the versions are registered.
        sha256s: digests of files.
        texts: digests of documents.
    """
    catalog, wanted = workspace.catalog, set(texts)
    gone = tombstones.files(catalog.tombstones())
    held, unseen = list[_Held](), list[str]()
    for version in catalog.versions(DataFacts):
        before = gone.get(str(version.ref), frozenset())
        files = {one.path: one for one in version.files if one.bytes and one.sha256 not in before}
        one = _Held(version, files)
        folder = workspace.folder(version.ref)
        if folder.is_dir():
            _look(one, folder, wanted)
        elif files:
            unseen.append(f"{version.ref}: not on this disk, so its documents were not looked at")
        held.append(one)
    # The same file elsewhere goes too, where its documents could not be looked at.
    known = set(sha256s)
    for one in held:
        known |= {one.files[path].sha256 for path in one.paths(known)}
    parts = [_part(workspace, one, one.paths(known)) for one in held if one.paths(known)]
    empty = Sketch(bits=0, hashes=())
    return _Plan(tuple(parts), empty, (*unseen, *erased_bytes.unreached(workspace)))


def _look(held: _Held, folder: Path, wanted: set[str]) -> None:
    for path, document in _documents(folders.text_as_stated(folder, held.version.facts)):
        if document.digest in wanted:
            held.documents.setdefault(path, set()).add(document.digest)
        else:
            held.stays.add(path)


def _part(workspace: Workspace, held: _Held, paths: set[str]) -> ErasedPart:
    version, addresses = held.version, erased_bytes.md5s(workspace, held.version)
    files = tuple(
        ErasedFile(path=path, bytes=one.bytes, sha256=one.sha256, md5=addresses.get(path))
        for path, one in sorted(held.files.items())
        if path in paths
    )
    documents = set[str]().union(*(held.documents.get(path, set()) for path in paths))
    return ErasedPart(
        ref=str(version.ref),
        digest=version.digest,
        files=files,
        documents=tuple(sorted(documents)),
        whole=paths == held.files.keys() and not held.stays & paths,
    )


def _lay_out_rest(workspace: Workspace, part: ErasedPart) -> Path | None:
    """Copy what is left of a version into work/left; None where its folder is not here."""
    version = workspace.catalog.get(part.ref, DataFacts)
    ref = version.ref
    folder = workspace.folder(ref)
    target = workspace.work / "left" / f"{ref.name}-{ref.version}"
    erased = {file.path for file in part.files}
    if not folder.is_dir() or not any((folder / path).is_file() for path in erased):
        return target if target.is_dir() else None
    gone: dict[str, set[int | None]] = {}
    text = folders.text_as_stated(folder, version.facts)
    for path, document in _documents(text):
        if document.digest in part.documents:
            gone.setdefault(path, set()).add(document.number)
    for file in version.files:
        source, copy = folder / file.path, target / file.path
        if not source.is_file():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        if file.path not in erased:
            copy_file(source, copy)
        else:
            write_rest(source, copy, text.reading, gone.get(file.path, {None}))
    return target


def _answer(
    workspace: Workspace, parts: Sequence[ErasedPart], status: str, unreached: tuple[str, ...]
) -> EraseAnswer:
    closed = people.is_closed(workspace.catalog)
    return EraseAnswer(
        ref=parts[0].ref,
        status=status,
        parts=tuple(parts),
        cost=_cost(workspace, parts, unreached),
        notes=() if closed else (OPEN,),
    )


def _cost(
    workspace: Workspace, parts: Sequence[ErasedPart], unreached: tuple[str, ...]
) -> ErasureCost:
    """Return what an erasure takes with it of all that is in use."""
    catalog = workspace.catalog
    seeds, experts = dict[Reference, TrainAgain](), dict[Reference, TrainAgain]()
    builds, exports = dict[Reference, Reached](), dict[Reference, Reached]()
    for part in parts:
        impact = catalog.impact(part.ref)
        for ref in (*impact.others, *impact.experts):
            if catalog.status(ref) not in UNUSABLE:
                _train_again(workspace, ref, seeds, experts)
        for build in impact.builds:
            if build.removal != "none" and catalog.status(build.ref) not in UNUSABLE:
                builds[build.ref] = Reached(
                    ref=str(build.ref), removal=build.removal, why=build.why
                )
        for ref in impact.exports:
            folder = catalog.get(ref, ExportFacts).facts.folder
            exports[ref] = Reached(ref=str(ref), folder=folder)
    files = {file.sha256: file.bytes for part in parts for file in part.files}
    loose = loose_texts.holding(workspace, _texts(parts), _readings(workspace, parts))
    unread = [_inside(workspace, place) for one in loose for place in one.unread]
    return ErasureCost(
        versions=tuple(part.ref for part in parts),
        files=len(files),
        bytes=sum(files.values()),
        documents=len(_texts(parts)),
        seeds=tuple(seeds[ref] for ref in sorted(seeds)),
        experts=tuple(experts[ref] for ref in sorted(experts)),
        builds=tuple(builds[ref] for ref in sorted(builds)),
        exports=tuple(exports[ref] for ref in sorted(exports)),
        # Files below the workspace that no version holds, and that lose documents.
        beside=tuple(_inside(workspace, str(one.path)) for one in loose if one.numbers),
        unreached=(*unreached, *unread),
    )


def _inside(workspace: Workspace, path: str) -> str:
    return path.removeprefix(f"{workspace.root}/")


def _readings(workspace: Workspace, parts: Iterable[ErasedPart]) -> list[Reading]:
    """Return how the files of these versions are read."""
    every = [workspace.catalog.get(part.ref, DataFacts).facts for part in parts]
    return [folders.HowRead(facts.held_out, facts.reading).of_files for facts in every]


def _train_again(
    workspace: Workspace,
    ref: Reference,
    seeds: dict[Reference, TrainAgain],
    experts: dict[Reference, TrainAgain],
) -> None:
    """Put a seed or an expert among those that have to be trained again, with what it took."""
    facts = workspace.catalog.get(ref).facts
    if not isinstance(facts, SeedFacts | ExpertFacts):
        return
    spent = facts.train
    line = TrainAgain(
        ref=str(ref),
        tokens=spent.tokens if spent else None,
        flops=spent.flops if spent else None,
        wall_s=spent.wall_s if spent else None,
    )
    (seeds if isinstance(facts, SeedFacts) else experts)[ref] = line


def _sha256s(parts: Iterable[ErasedPart]) -> set[str]:
    return {file.sha256 for part in parts for file in part.files}


def _texts(parts: Iterable[ErasedPart]) -> set[str]:
    return {document for part in parts for document in part.documents}
