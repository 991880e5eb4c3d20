"""Job: register a checkpoint as an expert: collect evidence, ask the gate, take it in, write the row."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.measuring.evaluation import evaluate
from btx_core.measuring.overlap import contamination
from btx_core.mixing.preflight import preflight
from pipelines.jobs import evidence, gates
from pipelines.workspace import folders
from pipelines.workspace.environment import environment
from pipelines.workspace.progress import Show
from pipelines.workspace.recipes import EvaluateRecipe, recipe
from pipelines.workspace.workspace import Workspace, check_expert_name
from registry.catalogue.catalog import Version


def register(
    workspace: Workspace, name: str, source: Path, *, data: list[str], seed: str, show: Show
) -> Version:
    """Register the checkpoint (full weights or a LoRA adapter) in `source` as expert/NAME@next, trained on `data` from `seed`.

    Measured here: preflight against the seed, bits per byte of expert and seed on held-out text, how much of that stands in training text.
    Raises Refused when a policy says no: then no byte stays. The same content again gives the version that holds it.
    """
    check_expert_name(name)
    catalog = workspace.catalog
    with workspace.writing(f"register {name}"):
        base, corpora = catalog.get(seed), [catalog.get(reference) for reference in data]
        base_folder = folders.opened(workspace.root, base)
        texts = {corpus.ref.name: folders.opened(workspace.root, corpus) for corpus in corpora}
        number = catalog.next_version("expert", name)
        ref, target = f"expert/{name}@{number}", workspace.folder("expert", name, number)
        if source.exists() and not (source / "adapter_config.json").is_file():
            Checkpoint.open(
                source
            )  # where it lies first: a refusal names the caller's path, and comes before anything large is copied
        with folders.incoming(source, target) as aside:
            adapter_digest = _merged(base_folder, aside)
            files = folders.manifest(aside)
            lineage = {"seed": str(base.ref), "data": [str(corpus.ref) for corpus in corpora]}
            if number > 1:
                newest = catalog.get(f"expert/{name}")
                same = folders.files_digest(newest.files) == folders.files_digest(files)
                if same and all(newest.facts[key] == value for key, value in lineage.items()):
                    return replace(newest, created=False)
            # "full" allows shared parameters to have moved; whether they have is measured and fixes the mode.
            checked = preflight(base_folder, aside, "full", others=_others(workspace, name, base))
            facts: dict[str, Any] = {
                "domain": corpora[0].ref.name,
                "licenses": sorted({corpus.facts["license"] for corpus in corpora}),
                "mode": "anchored" if checked["ancestry"]["shared_identical"] else "full",
                "preflight": checked,
                "evaluation": None
                if checked["problems"]
                else _evaluation(workspace, base, base_folder, aside, texts, show),
                "contamination": contamination(list(texts.values())),
                "train": (trained := training_report(aside)),
                "environment": environment()
                if trained
                else None,  # a branch trained elsewhere was made by programs nobody told us
                "adapter": adapter_digest,
                "tensors": folders.tensors(aside),
                **lineage,
            }
            gates.ask(workspace, "register", ref, evidence.of_expert(catalog, ref, name, facts))
            folders.accept(aside, target)
        held = folders.track(workspace.root, target)
        for file in files:
            workspace.store.put(target / file.path, file.sha256)
        parents = [(base.ref, "branched_from"), *((corpus.ref, "trained_on") for corpus in corpora)]
        return catalog.register(
            "expert", name, facts | {"dvc": held}, files=files, version=number, parents=parents
        )


def _others(workspace: Workspace, name: str, base: Version) -> dict[str, Path]:
    """Folders of the other experts of this seed, the newest version of each."""
    same = [
        version
        for version in workspace.catalog.list("expert", seed=str(base.ref))
        if version.ref.name != name
    ]
    return {version.ref.name: workspace.root / version.facts["dvc"]["path"] for version in same}


def _merged(base: Path, aside: Path) -> str | None:
    """Where the folder holds a LoRA adapter, put the merged checkpoint in its place. Returns the adapter's digest."""
    if not (aside / "adapter_config.json").is_file():
        return None
    from btx_core.training import adapter

    digest = folders.files_digest(folders.manifest(aside))
    adapter.merge_in_place(base, aside)
    return digest


def _evaluation(
    workspace: Workspace,
    base: Version,
    base_folder: Path,
    candidate: Path,
    texts: dict[str, Path],
    show: Show,
) -> dict[str, Any]:
    """Per domain: the specialist's and the seed's bits per byte (and accuracy) on text that no training has seen."""
    settings = recipe(EvaluateRecipe, workspace.settings.recipe.evaluate).text
    with show("evaluate expert") as progress:
        expert = evaluate(candidate, texts, progress=progress, **settings).to_json()["domains"]
    with show(f"evaluate {base.ref}") as progress:
        seed = evaluate(base_folder, texts, progress=progress, **settings).to_json()["domains"]
    first = next(iter(texts))
    by_domain: dict[str, dict[str, Any]] = {
        name: expert[name] | {f"seed_{key}": value for key, value in seed[name].items()}
        for name in texts
    }
    return {**by_domain[first], "domains": by_domain}


def training_report(folder: Path) -> dict[str, Any] | None:
    """What the branch's training wrote of itself, where it was trained here: tokens, flops, wall_s, curve, recipe."""
    path = folder / "btx-train.json"
    if not path.is_file():
        return None
    written = json.loads(path.read_text())
    return {**written["report"], "recipe": written["recipe"]}
