"""What a gate's answer costs: judging alone, and judging, keeping the documents and logging the verdict.

    python benchmarks/governance/decision.py [--rules 100] [--members 20] [--times 200]

Prints one line per measure, milliseconds: this process's own time, then median and 99th percentile on the clock, with disk and neighbours.
Exit status 1 when a whole decision costs over 20 ms of this process's time.
The rules are the default policies' over a build, repeated under other names until there are as many as asked for. The members did pass no
gate here, so rules refuse the decided build: a refusal costs more than a yes, for its messages.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from registry.catalogue.catalog import Catalog
from registry.governance import gate
from registry.governance.policies import Candidate, Policy, judge, load
from registry.records.evidence import EVIDENCE, BuildEvidence, Evidence
from registry.records.kinds import Gate, Kind
from registry.records.references import parse

POLICIES = Path(__file__).parents[2] / "policies"
LIMIT_MS = 20.0


def many_rules(count: int) -> list[Policy]:
    """Copies of the release gate's policies, cut to exactly `count` rules."""
    found = [policy for policy in load(POLICIES) if policy.match.covers("release", "build", [])]
    made: list[Policy] = []
    while (have := sum(len(policy.validations) for policy in made)) < count:
        one = found[len(made) % len(found)]
        made.append(
            one.model_copy(
                update={
                    "name": f"{one.name}-{len(made)}",
                    "validations": one.validations[: count - have],
                }
            )
        )
    return made


def candidate(members: int) -> dict[str, Any]:
    """The release suite's build with as many members, each with data and an evaluation of its own."""
    evidence: dict[str, Any] = yaml.safe_load((POLICIES / "tests" / "release.yaml").read_text())[
        "evidence"
    ]
    line, figures = evidence["members"][0], evidence["results"][0]
    data = [line["data"][0] | {"ref": f"data/d{number}@1"} for number in range(members)]
    lines = [
        line | {"ref": f"expert/e{number}@1", "data": [data[number]]} for number in range(members)
    ]
    return evidence | {
        "members": lines,
        "results": [
            figures | {"data": f"data/d{number}@1", "domain": f"d{number}"}
            for number in range(members)
        ],
    }


def measured(act: Callable[[], Any], times: int) -> tuple[float, float, float]:
    act()
    taken, before = [], time.process_time()
    for _ in range(times):
        started = time.perf_counter()
        act()
        taken.append(1000 * (time.perf_counter() - started))
    own = 1000 * (time.process_time() - before) / times
    return own, statistics.median(taken), statistics.quantiles(taken, n=100)[98]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("rules", 100), ("members", 20), ("times", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    policies, evidence, at = (
        many_rules(asked.rules),
        candidate(asked.members),
        datetime(2026, 6, 1, tzinfo=UTC),
    )
    asked_about = Candidate("release", "build", evidence)
    outcome = judge(policies, asked_about, at=at)
    print(f"{len(outcome.rules)} rules, {asked.members} members: {outcome.outcome}")

    def say(what: str, act: Callable[[], Any], times: int) -> float:
        own, median, slow = measured(act, times)
        print(f"{what:<36} own {own:7.2f}   median {median:7.2f}   99 % {slow:7.2f}")
        return own

    say("load the default policies from disk", lambda: load(POLICIES), 20)
    say(
        "judge",
        lambda: judge(policies, asked_about, at=at),
        asked.times,
    )
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(f"sqlite:///{folder}/registry.db", actor="ann")

        def question_about(name: Gate, known: Evidence) -> gate.Question:
            subject = str(known.ref)
            return gate.Question(
                gate=name, subject=subject, evidence=known, policies=policies, at=at
            )

        for ref in (
            evidence["seed"],
            *(line["ref"] for member in evidence["members"] for line in (member, *member["data"])),
        ):
            # Each has a logged verdict, which the decision reads.
            kind = Kind(ref.partition("/")[0])
            named = {"kind": kind, "ref": ref, "name": parse(ref).name}
            known = EVIDENCE[kind].model_validate(named)
            gate.decide(catalog, question_about(Gate.REGISTER, known))

        build = BuildEvidence.model_validate(evidence)

        def decide() -> None:
            gate.decide(catalog, question_about(Gate.RELEASE, build))

        whole = say("decide: judge, keep documents, log", decide, asked.times)
        (last, *_) = reversed(gate.verdicts(catalog, str(build.ref)))
        say("judge a logged verdict again", lambda: gate.judge_again(catalog, last), asked.times)
        catalog.close()
    return int(whole > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
