"""What a gate's answer costs: the judgement by itself, and the whole decision with its log entry.

    python benchmarks/governance/decision.py [--rules 100] [--members 20] [--times 200]

Prints one line per measure, in milliseconds: this process's own time, then median and 99th
percentile by the clock, disk and other processes included. Exit status 1 when a whole decision
costs more than 20 ms of this process's time.

The rules are the default policies' over a build, repeated under other names until there are as many
as asked for. The members passed no gate here, so rules refuse the build: a refusal costs more than
an approval, because of its messages.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from registry.catalogue.catalog import Catalog
from registry.governance import gate
from registry.governance.policies import Candidate, Policy, judge
from registry.governance.policy_files import load
from registry.records.evidence import EVIDENCE, BuildEvidence, Evidence
from registry.records.kinds import Gate, Kind
from registry.records.references import parse

POLICIES = Path(__file__).parents[2] / "policies"
LIMIT_MS = 20.0
NOW = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: of this process, and by the clock."""

    own_ms: float
    median_ms: float
    p99_ms: float


def many_rules(count: int) -> list[Policy]:
    """Return copies of the release gate's policies, cut to exactly `count` rules."""
    originals = [policy for policy in load(POLICIES) if policy.match.covers("release", "build", [])]
    copies: list[Policy] = []
    while (so_far := sum(len(policy.validations) for policy in copies)) < count:
        original = originals[len(copies) % len(originals)]
        copies.append(
            original.model_copy(
                update={
                    "name": f"{original.name}-{len(copies)}",
                    "validations": original.validations[: count - so_far],
                }
            )
        )
    return copies


# Any: evidence as the YAML file of the policies' tests holds it.
def candidate(members: int) -> dict[str, Any]:
    """Return the build of the release suite with as many members, each with data of its own."""
    suite = yaml.safe_load((POLICIES / "tests" / "release.yaml").read_text())
    evidence: dict[str, Any] = suite["evidence"]
    member, result = evidence["members"][0], evidence["results"][0]
    data = [member["data"][0] | {"ref": f"data/d{number}@1"} for number in range(members)]
    return evidence | {
        "members": [
            member | {"ref": f"expert/e{number}@1", "data": [data[number]]}
            for number in range(members)
        ],
        "results": [
            result | {"data": f"data/d{number}@1", "domain": f"d{number}"}
            for number in range(members)
        ],
    }


def references(evidence: dict[str, Any]) -> Iterator[str]:
    """Yield the seed, and every member with its data."""
    yield evidence["seed"]
    for member in evidence["members"]:
        yield member["ref"]
        for data in member["data"]:
            yield data["ref"]


def timing(act: Callable[[], object], times: int) -> Timing:
    """Call a function once to warm up, then `times` times, and return what a call took."""
    act()
    taken_ms, before = [], time.process_time()
    for _ in range(times):
        started = time.perf_counter()
        act()
        taken_ms.append(1000 * (time.perf_counter() - started))
    own_ms = 1000 * (time.process_time() - before) / times
    return Timing(own_ms, statistics.median(taken_ms), statistics.quantiles(taken_ms, n=100)[98])


def print_timing(label: str, act: Callable[[], object], times: int) -> Timing:
    """Time a function, print the result, and return it."""
    taken = timing(act, times)
    print(
        f"{label:<36} own {taken.own_ms:7.2f}   median {taken.median_ms:7.2f}   "
        f"99 % {taken.p99_ms:7.2f}"
    )
    return taken


def question_about(gate_name: Gate, evidence: Evidence, policies: list[Policy]) -> gate.Question:
    """Return what a gate is asked about a candidate."""
    return gate.Question(
        gate=gate_name,
        subject=str(evidence.ref),
        evidence=evidence,
        policies=policies,
        at=NOW,
    )


def time_decision(
    catalog: Catalog, evidence: dict[str, Any], policies: list[Policy], times: int
) -> Timing:
    """Time a whole decision and a second judgement of its verdict; return the former."""
    # Each version that is named has a logged verdict, which the decision reads.
    for reference in references(evidence):
        kind = Kind(reference.partition("/")[0])
        named = {"kind": kind, "ref": reference, "name": parse(reference).name}
        registered = EVIDENCE[kind].model_validate(named)
        gate.decide(catalog, question_about(Gate.REGISTER, registered, policies))
    build = BuildEvidence.model_validate(evidence)
    question = question_about(Gate.RELEASE, build, policies)
    label = "decide: judge, store documents, log"
    whole = print_timing(label, lambda: gate.decide(catalog, question), times)
    newest = list(gate.verdicts(catalog, str(build.ref)))[-1]
    print_timing("judge a logged verdict again", lambda: gate.judge_again(catalog, newest), times)
    return whole


def main() -> int:
    """Print the timings; return 1 where a decision takes too long."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rules", type=int, default=100)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--times", type=int, default=200)
    options = parser.parse_args()
    policies, evidence = many_rules(options.rules), candidate(options.members)
    build = Candidate("release", "build", evidence)
    outcome = judge(policies, build, at=NOW)
    print(f"{len(outcome.rules)} rules, {options.members} members: {outcome.outcome}")
    print_timing("load the default policies from disk", lambda: load(POLICIES), 20)
    print_timing("judge", lambda: judge(policies, build, at=NOW), options.times)
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(f"sqlite:///{folder}/registry.db", actor="ann")
        whole = time_decision(catalog, evidence, policies, options.times)
        catalog.close()
    return int(whole.own_ms > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
