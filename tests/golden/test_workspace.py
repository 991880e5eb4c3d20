"""A whole demonstration workspace that older code made, read and worked in by today's code.

It is made by `tests/golden/make.sh FOLDER`, named in BTX_GOLDEN, and copied before anything is
done in it. `make golden` does both.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GOLDEN = os.environ.get("BTX_GOLDEN")
BUILDS = (1, 2, 3)

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not GOLDEN, reason="BTX_GOLDEN names no workspace: make golden"),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden") / "workspace"
    # -a keeps hard links among the copied files.
    subprocess.run(["cp", "-a", f"{GOLDEN}/workspace", str(root)], check=True)
    return root


def answer(workspace: Path, *arguments: str) -> Any:
    command = [str(Path(sys.executable).with_name("btx")), *arguments, "--json"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True)
    # 3: a gate that would refuse; 4: an audit with findings. Both are answers.
    assert done.returncode in (0, 3, 4), done.stderr
    return json.loads(done.stdout)


def older(name: str) -> Any:
    return json.loads(Path(f"{GOLDEN}/answers/{name}.json").read_text())


@pytest.mark.parametrize("kind", ["seeds", "data", "experts", "builds"])
def test_everything_is_listed_as_before_digests_and_statuses_included(
    workspace: Path, kind: str
) -> None:
    assert answer(workspace, "list", kind) == older(f"list-{kind}")


@pytest.mark.parametrize("build", BUILDS)
def test_an_audit_examines_and_finds_what_it_did_before(workspace: Path, build: int) -> None:
    now, before = answer(workspace, "audit", f"build/{build}"), older(f"audit-{build}")
    assert {key: now[key] for key in before} == before


@pytest.mark.parametrize("build", BUILDS)
def test_a_build_shows_the_files_members_and_figures_that_it_had(
    workspace: Path, build: int
) -> None:
    now, before = answer(workspace, "show", f"build/{build}"), older(f"show-{build}")
    for key in ("ref", "status", "digest", "folder", "seed", "members", "files", "cost", "gates"):
        assert now[key] == before[key], key
    for domain, figures in before["evaluation"].items():
        assert figures.items() <= now["evaluation"][domain].items()
    assert now["routing"] == before["routing"]


@pytest.mark.parametrize("build", BUILDS)
def test_the_lineage_is_the_same(workspace: Path, build: int) -> None:
    assert answer(workspace, "lineage", f"build/{build}") == older(f"lineage-{build}")


def test_a_text_is_explained_by_the_same_experts(workspace: Path) -> None:
    now = answer(workspace, "explain", "build/3", "--text", "12 + 30 = 42")
    assert older("explain-3").items() <= now.items()


def test_a_rebuild_has_nothing_to_do(workspace: Path) -> None:
    done = answer(workspace, "rebuild")
    assert (done["build"], done["status"], done["ran"]) == ("build/3", "unchanged", [])


def test_a_branch_that_was_trained_is_found_trained(workspace: Path) -> None:
    done = answer(workspace, "train", "math", "--data", "data/math")
    assert done["status"] == "unchanged"


def test_the_release_gate_reads_the_policies_that_lie_in_the_workspace(workspace: Path) -> None:
    verdict = answer(workspace, "policy", "check", "build/3")["verdicts"]["release"]
    refused = [rule["rule"] for rule in verdict["rules"] if rule["outcome"] == "refused"]
    assert refused == ["second-person"]
