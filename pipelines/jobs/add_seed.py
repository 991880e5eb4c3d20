"""Register a dense checkpoint as a seed: a folder, or a GGUF file that is converted first."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from btx_core.checkpoints.contents import contents_of
from btx_core.checkpoints.gguf import is_gguf, read_gguf_header, write_plain
from btx_core.files import temporary_path
from btx_core.mixing.distances import all_finite
from btx_core.mixing.seed_model import open_seed
from pipelines.jobs import collect_evidence, gates, state_facts
from pipelines.workspace import folders
from pipelines.workspace.general import refuse_evaluation_data
from pipelines.workspace.workspace import Workspace, check_name
from registry.digest import sha256_file
from registry.errors import Conflict
from registry.governance import seen_before
from registry.records.facts import DataFacts, SeedFacts, SourceFile
from registry.records.kinds import Gate, Kind, Relation
from registry.records.version import Version, content_digest


@dataclass(frozen=True)
class SeedSource:
    """A checkpoint folder that is to be registered.

    Attributes:
        folder: where it lies.
        converted_from: the file that it was converted from; None for a folder that a person named.
        taken: the files in it that are taken in; None for all.
        left_out: those that are not.
    """

    folder: Path
    converted_from: SourceFile | None = None
    taken: Mapping[str, Path] | None = None
    left_out: tuple[str, ...] = ()


def add_seed(
    workspace: Workspace,
    name: str,
    source: Path,
    *,
    data: Sequence[str] = (),
    license: str | None = None,
) -> Version[SeedFacts]:
    """Register a checkpoint as the next version of `seed/NAME`.

    Args:
        workspace: where it is registered.
        name: the seed's name.
        source: a dense checkpoint in Hugging Face format, or a GGUF file.
        data: the data versions that it was trained on, where they are registered.
        license: SPDX.

    Returns:
        The version; the newest one where it is in use and holds the same files and data.

    Raises:
        Invalid: for a name that no version can have.
        Unsafe: for what cannot be read safely.
        Unsupported: for a family that cannot be mixed, or a seed without a tokenizer.
        ShapeMismatch: for tensors or tokens that are not those of the model's class.
        Refused: when a policy says no; then no byte stays.
        Conflict: where it is registered already, under another licence or none.
    """
    check_name(Kind.SEED, name)
    catalog = workspace.catalog
    own = state_facts.stated(workspace, Kind.SEED)
    with (
        workspace.writing(f"seed add {name}"),
        workspace.numbering(Kind.SEED, name) as number,
    ):
        ref = f"seed/{name}@{number}"
        target = workspace.folder(ref)
        parents = [catalog.get(reference, DataFacts) for reference in data]
        refuse_evaluation_data(parents)
        with (
            _checkpoint(workspace, source) as checked,
            folders.incoming(checked.folder, target, taken=checked.taken) as incoming,
        ):
            seed = open_seed(incoming)
            files = folders.manifest(incoming)
            facts = SeedFacts(
                model_type=seed.checkpoint.model_type,
                family=seed.family.name,
                parameters=sum(prod(tensor.shape) for tensor in seed.checkpoint.tensors.values()),
                license=license,
                data=tuple(str(parent.ref) for parent in parents),
                finite=all_finite(seed.checkpoint),
                tensors=folders.tensors(incoming),
            )
            facts = own.on(facts)
            if checked.converted_from:
                facts = facts.model_copy(update={"converted_from": checked.converted_from})
            if checked.left_out:
                facts = facts.model_copy(update={"left_out": checked.left_out})
            newest = catalog.newest_in_use(SeedFacts, name)
            if newest and _same(newest, facts, content_digest(files)):
                _require_same_licence(newest, license)
                own.require_same(workspace, newest)
                return replace(newest, created=False)
            seen = seen_before.of_weights(catalog, facts.tensors)
            asked = collect_evidence.of_seed(ref, facts, files, seen)
            gates.ask(workspace, Gate.REGISTER, ref, asked)
            with folders.placed(workspace.root, incoming, target, files) as held:
                for file in files:
                    workspace.store.put(target / file.path, file.sha256)
                own.keep(workspace)
                return catalog.register(
                    name,
                    facts.model_copy(update={"dvc": held}),
                    files=files,
                    version=number,
                    parents=[(parent.ref, Relation.TRAINED_ON) for parent in parents],
                )


def _same(newest: Version[SeedFacts], facts: SeedFacts, content: str) -> bool:
    return newest.facts.data == facts.data and content_digest(newest.files) == content


def _require_same_licence(registered: Version[SeedFacts], license: str | None) -> None:
    """Refuse to answer with a seed of which another licence is stated.

    Raises:
        Conflict: unless no licence is stated now, or the one that was registered.
    """
    if license is None or license == registered.facts.license:
        return
    raise Conflict(
        f"{registered.ref}, registered already",
        found=f"licence {registered.facts.license or 'not stated'}",
        expected=f"licence {license}",
        next="register it under another name and branch from that: "
        f"btx seed add NAME PATH --license {license}; what a row says is never altered",
    )


@contextmanager
def _checkpoint(workspace: Workspace, source: Path) -> Iterator[SeedSource]:
    """Yield the checkpoint folder that is meant; one that was made of a GGUF file is temporary."""
    if not is_gguf(source):
        if not source.exists():
            yield SeedSource(source)
            return
        # Where it lies first: a refusal names the caller's path, and comes before the copy.
        contents = contents_of(source)
        open_seed(source)
        yield SeedSource(source, taken=contents.taken, left_out=contents.left_out)
        return
    header = read_gguf_header(source)
    # Not in work/, which a refusal must not leave behind.
    with temporary_path(workspace.root / ".btx", "gguf") as folder:
        folder.mkdir()
        write_plain(header, folder)
        yield SeedSource(
            folder,
            SourceFile(
                name=source.name,
                sha256=sha256_file(source),
                bytes=source.stat().st_size,
                format="gguf",
                quantisation=header.quantisation,
            ),
        )
