"""Compose once, without a workspace: checkpoint folders in, a folder out."""

from collections.abc import Sequence
from pathlib import Path

from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.mixing.preflight import moved_shared
from btx_core.problems import WrongUsage
from btx_core.progress import Progress
from registry.errors import Conflict, Invalid
from registry.records.answers.building import MixAnswer


def compose(
    seed: Path,
    experts: Sequence[Path],
    out: Path,
    recipe: MixRecipe,
    progress: Progress | None = None,
) -> MixAnswer:
    """Mix checkpoint folders into a new folder.

    Args:
        seed: the seed's checkpoint folder.
        experts: the experts' checkpoint folders; an expert is named like its folder.
        out: the new folder.
        recipe: how to mix.
        progress: called with what has been written so far.

    Raises:
        Invalid: if two folders have one name.
        Conflict: if `out` exists.
        WrongUsage: for an expert that has more than feed-forward blocks of its own, in mode
            anchored, which would drop the rest of it.
    """
    names = [expert.resolve().name for expert in experts]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise Invalid(
            "experts",
            found=f"{', '.join(double)} more than once",
            expected="folder names that differ",
            next="rename a folder",
        )
    if out.exists():
        raise Conflict(
            str(out),
            found="something there",
            expected="a new folder",
            next="name another folder with -o",
        )
    members = [
        Member(name, slot, expert)
        for slot, (name, expert) in enumerate(zip(names, experts, strict=True), start=1)
    ]
    if recipe.mode == "anchored":
        for member in members:
            _require_anchored(seed, member)
    report = mix(seed, members, recipe, out, progress=progress)
    return MixAnswer(
        folder=str(out),
        members=tuple(names),
        bytes_written=report.bytes_written,
        bytes_linked=report.bytes_linked,
    )


def _require_anchored(seed: Path, member: Member) -> None:
    moved = moved_shared(seed, member.folder)
    if moved:
        raise WrongUsage(
            f"{member.folder}, {moved[0]}",
            found=f"{len(moved)} tensors outside the feed-forward blocks that are not the seed's",
            expected="the seed's own, of which mode anchored makes the mixture",
            next="--mode full, which averages them",
        )
