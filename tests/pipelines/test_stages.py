"""What the stages of a rebuild are given: which expert a text trained."""

from pathlib import Path

import pytest

from btx_core.training.objectives import GENERAL
from pipelines.stages import stages
from pipelines.workspace.orders import BuildOrder, FolderOrder, MemberOrder
from registry.records.facts import BuildRecipe


def order(members: dict[str, tuple[str, ...]]) -> BuildOrder:
    """A rebuild whose members were trained on these texts; data/prose@1 is the seed's own."""

    def folder(ref: str) -> FolderOrder:
        return FolderOrder(ref=ref, path=ref, digest="")

    texts = {data for trained_on in members.values() for data in trained_on}
    experts = tuple(
        MemberOrder(ref=f"expert/{name}@1", path=name, digest="", name=name, slot=slot, data=data)
        for slot, (name, data) in enumerate(members.items(), 1)
    )
    return BuildOrder(
        ref="snapshot/main@1",
        seed=folder("seed/base@1"),
        members=experts,
        domains={ref: folder(ref) for ref in texts},
        general=(folder("data/prose@1"),),
        previous=None,
        grown_from=None,
        recipe=BuildRecipe(),
        threads=1,
    )


@pytest.mark.parametrize(
    ("members", "own"),
    [
        ({"law": ("data/law@1",)}, {GENERAL: 0, "data/law@1": 1}),
        # Replayed text is the seed's own all the same.
        ({"law": ("data/law@1", "data/prose@1")}, {GENERAL: 0, "data/law@1": 1}),
        # An expert of the seed's own text alone stands in for the seed.
        ({"prose": ("data/prose@1",), "law": ("data/law@1",)}, {GENERAL: 1, "data/law@1": 2}),
        # Whoever was trained on a text alone knows it best.
        (
            {"both": ("data/law@1", "data/tax@1"), "law": ("data/law@1",)},
            {GENERAL: 0, "data/law@1": 2, "data/tax@1": 1},
        ),
    ],
)
def test_a_text_is_told_to_be_of_the_expert_that_it_trained(
    members: dict[str, tuple[str, ...]], own: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_proven", lambda order: Path(order.path))
    found = stages._own_experts(order(members))
    assert {domain: expert.index for domain, expert in found.items()} == own
