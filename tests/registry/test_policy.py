"""A rule passes only by being exactly true."""

import copy
import json
import math
import os
import re
import signal
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from registry.errors import Invalid
from registry.governance.cel import expressions
from registry.governance.policies import (
    Candidate,
    Match,
    Policy,
    Validation,
    Verdict,
    Waiver,
    from_document,
    judge,
    to_document,
)
from registry.governance.policy_files import load
from registry.governance.policy_tests import changed

POLICIES = Path(__file__).parents[2] / "policies"
DEFAULT = load(POLICIES)
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
EXAMPLES = int(os.environ.get("BTX_EXAMPLES", "300"))
# One judgement in this process's own time, so that a busy machine is no hang. Usual ones take
# milliseconds.
LONGEST_S = 2.0
bounded = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@cache
def suite(name: str) -> Any:
    return yaml.safe_load((POLICIES / "tests" / f"{name}.yaml").read_text())


def policy(expression: str, **more: Any) -> Policy:
    rule = Validation(
        rule="it",
        expression=expression,
        message="found {evidence.license}",
        remedy="fix the thing",
    )
    values: dict[str, Any] = {
        "name": "p",
        "why": "a test",
        "match": Match(gates=("register",), kinds=("data",)),
        "validations": (rule,),
    }
    return Policy(**(values | more))


def judged(expression: str, evidence: dict[str, Any] | None = None, **more: Any) -> Verdict:
    facts = {
        "kind": "data",
        "ref": "data/x@1",
        "name": "x",
        "license": "MIT",
        "files": 3,
        "holder": None,
    } | (evidence or {})
    return verdict_on([policy(expression, **more)], facts)


def verdict_on(
    policies: list[Policy],
    evidence: dict[str, Any],
    *,
    gate: str = "register",
    kind: str = "data",
    waivers: tuple[Waiver, ...] = (),
) -> Verdict:
    return judge(policies, Candidate(gate, kind, evidence), at=AT, waivers=waivers)


@pytest.mark.parametrize(
    "expression",
    [
        "evidence.missing == 1",
        "evidence.missing != 1",
        "evidence.holder < 1",
        "evidence.license",
        "evidence.files",
        "1",
        '"true"',
        "null",
        "[true]",
        "undeclared == 1",
        "evidence.license ==",
        "has(evidence.missing)",
        "!has(evidence.missing)",
        "evidence.license.matches('(')",
        "1 / 0 == 1",
        "[1, 2, 3].map(x, [x, x]).size() == 3",
        "evidence" + ".a" * 40 + " == 1",
        "true || " * 800 + "true",
        "1 + " * 20 + "1 > 0",
        "'a'" + ".matches('a')" * 40,
        "\x00",
        "evidence.license == 'MIT' && evidence.missing != 'x'",
    ],
)
def test_what_is_not_exactly_true_refuses(expression: str) -> None:
    assert judged("evidence.license == 'MIT'").outcome == "allowed"
    assert judged(expression).outcome == "refused"


def test_a_refusal_says_what_was_found_and_how_to_fix_it() -> None:
    (rule,) = judged("evidence.license == 'X'").refusals()
    assert (rule.name, rule.message, rule.remedy) == ("p/it", "found MIT", "fix the thing")


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ([1.4926182736455919, 0.000123456789], "1.49, 0.000123"),
        ([1.4926182736455919, 1.4929], "1.4926, 1.4929"),
        ([3.0, 123456.7], "3, 123457"),
    ],
)
def test_figures_in_a_refusal_are_rounded_and_unlike_ones_stay_unlike(
    figures: list[float], message: str
) -> None:
    rule = Validation(rule="it", expression="false", message="{evidence.figures}", remedy="train")
    (refusal,) = judged("false", {"figures": figures}, validations=(rule,)).refusals()
    assert refusal.message == message


@pytest.mark.parametrize(
    "evidence",
    [
        {"files": math.nan},
        {"files": object()},
        {"license": "\ud800"},
        {"license": "x" * (1 << 20)},
        {1: 2},
    ],
)
def test_evidence_that_is_not_plain_json_refuses(evidence: dict[Any, Any]) -> None:
    assert judged("1 == 1", evidence).outcome == "refused"


def test_deep_evidence_refuses_instead_of_overflowing_the_stack() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert judged("1 == 1", {"files": deep}).outcome == "refused"


def test_evidence_of_another_kind_refuses() -> None:
    assert judged("1 == 1", {"kind": "seed"}).outcome == "refused"


def test_loops_without_end_and_values_without_bound_are_refused_quickly() -> None:
    lines = [
        {"rule": f"p/{number}", "subject": "data/x@1", "until": None, "actor": "ann"}
        for number in range(3000)
    ]
    many = {"waivers": lines}
    each = "evidence.waivers.all"
    ordered = "a.rule <= b.rule || b.rule <= c.rule || c.rule <= a.rule"
    assert judged("evidence.waivers.size() == 3000", many).outcome == "allowed"
    started = time.process_time()
    for expression in (
        f"{each}(a, {each}(b, {each}(c, {ordered})))",
        "[1]" + ".map(x, [x, x])" * 28 + " == [1]" + ".map(x, [x, x])" * 28,
        "['ab']" + ".map(x, x + x)" * 28 + "[0].size() > 0",
        "[1]" + ".map(x, [x, x].map(y, y))" * 26 + " == [1]" + ".map(x, [x, x].map(y, y))" * 26,
        "[1]" + ".map(x, [x, x].filter(y, true))" * 26 + " != []",
        "[1]" + ".map(x, [x, x].filter(y, true).map(z, z))" * 26 + " != []",
        "[1]" + ".map(x, (true ? [x, x, x, x, x] : [x]).map(y, y))" * 12 + " != []",
    ):
        assert judged(expression, many).outcome == "refused"
    assert time.process_time() - started < LONGEST_S


def test_a_gate_no_policy_speaks_for_is_shut() -> None:
    evidence = suite("data")["evidence"]
    assert verdict_on(DEFAULT, evidence).outcome == "allowed"
    for gate in ("release", "", "Register"):
        assert verdict_on(DEFAULT, evidence, gate=gate).outcome == "refused"
    assert verdict_on([], evidence).outcome == "refused"


def test_a_policy_for_some_domains_leaves_the_others_alone() -> None:
    match = Match(gates=("register",), kinds=("data",), domains=("legal-*",))
    everywhere = policy("1 == 1", name="q")
    for name, outcome in (("legal-eu", "refused"), ("code", "allowed")):
        evidence = {"kind": "data", "ref": f"data/{name}@1", "name": name}
        rules = [policy("1 == 2", match=match), everywhere]
        assert verdict_on(rules, evidence).outcome == outcome


def test_a_warning_does_not_refuse_and_is_reported() -> None:
    verdict = judged("1 == 2", enforcement="warn")
    assert (verdict.outcome, [rule.outcome for rule in verdict.rules]) == ("allowed", ["warned"])


def test_a_waiver_counts_for_its_rule_subject_and_days_only() -> None:
    evidence = changed(
        suite("data")["evidence"], {"license": "Other", "license_alternatives": [["Other"]]}
    )

    def outcome(**change: str) -> str:
        waiver = Waiver(
            **(
                {
                    "rule": "licence/allowed",
                    "subject": "data/contracts@1",
                    "until": "2026-06-01",
                    "actor": "b",
                    "why": "w",
                }
                | change
            )
        )
        return verdict_on(DEFAULT, evidence, waivers=(waiver,)).outcome

    assert outcome() == "waived"
    for change in (
        {"rule": "licence/stated"},
        {"subject": "data/contracts@2"},
        {"until": "2026-05-31"},
        {"until": "for ever"},
        {"until": ""},
    ):
        assert outcome(**change) == "refused"


def test_evidence_read_back_gives_the_same_verdict_in_arithmetic() -> None:
    from registry.digest import canonical_json

    expression = "evidence.files * 1.05 > 3.0 && evidence.files <= 3"
    facts = {"kind": "data", "ref": "data/x@1", "name": "x", "files": 3.0}
    again = json.loads(canonical_json(facts))
    assert isinstance(again["files"], int)
    for evidence in (facts, again):
        assert verdict_on([policy(expression)], evidence).outcome == "allowed"


def test_policies_kept_as_a_document_judge_as_before() -> None:
    kept = from_document(to_document(DEFAULT))
    assert kept == DEFAULT


SOUND = yaml.safe_load((POLICIES / "licence.yaml").read_text())
CHAINED = "evidence.waivers.filter(w, w.rule == '').all(w, w.til == 1)"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"validations.0.expression": "evidence.licence != null"}, "the fact 'licence'"),
        ({"validations.0.expression": "parameters.alowed == 1"}, "the fact 'alowed'"),
        ({"validations.0.expression": "evidence['licence'] == 1"}, "the fact 'licence'"),
        ({"validations.0.expression": "evidence.waivers.all(w, w.til == 1)"}, "the fact 'til'"),
        ({"validations.0.expression": CHAINED}, "the fact 'til'"),
        ({"validations.0.expression": "1 + 1"}, "int"),
        ({"validations.0.message": "no {evidence.licence}"}, "the fact 'licence'"),
        ({"validations.0.message": "no {evidence.license"}, "message"),
        ({"name": "other"}, "name other"),
        ({"enforcement": "ignore"}, "enforcement"),
        ({"match.gates": ["release"]}, "gate release"),
        ({"match.gates": []}, "match.gates"),
        ({"unknown": 1}, "unknown"),
        ({"validations": []}, "validations"),
        ({"waivable": "yes please"}, "waivable"),
        ({"validations.1.rule": "stated"}, "validations"),
        ({"parameters.until": date(2026, 1, 1)}, "date"),
        ({"parameters.most": math.nan}, "nan"),
        ({"parameters.key": b"x"}, "bytes"),
    ],
)
def test_an_unsound_policy_file_is_named_with_what_is_wrong(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    (tmp_path / "licence.yaml").write_text(yaml.safe_dump(changed(SOUND, change)))
    with pytest.raises(Invalid, match=r"licence\.yaml") as raised:
        load(tmp_path)
    assert says in str(raised.value)


@pytest.mark.parametrize("ending", ["yml", "YAML"])
def test_a_policy_by_which_no_gate_would_be_asked_is_named(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"licence.{ending}").write_text((POLICIES / "licence.yaml").read_text())
    with pytest.raises(Invalid, match=rf"licence\.{ending}\n.*expected licence\.yaml"):
        load(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "name: a\nname: b\n",
        "a: &x [1]\nb: *x\n",
        "- 1\n",
        "",
        "a: {",
        "!!python/object:os.system {}",
        "why: 1\n" + "[" * 5000,
        "1: 2\n",
        "\x00",
    ],
)
def test_a_policy_file_that_is_not_plain_yaml_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "licence.yaml").write_text(text)
    with pytest.raises(Invalid):
        load(tmp_path)


# Truth tables with errors, as CEL defines them: an error is absorbed by a decisive other side, and
# is otherwise an error.

ATOMS = [
    ("evidence.license == 'MIT'", True),
    ("evidence.files > 2", True),
    ("evidence.license in ['MIT', 'X']", True),
    ("evidence.license == 'X'", False),
    ("evidence.files < 0", False),
    ("evidence.holder != null", False),
    ("evidence.missing == 1", None),
    ("evidence.license < 1", None),
    ("evidence.holder.name == 'x'", None),
    ("evidence.license", None),
    ("timestamp(evidence.license) < now", None),
]


def _and(left: tuple[str, bool | None], right: tuple[str, bool | None]) -> tuple[str, bool | None]:
    values = (left[1], right[1])
    return (
        f"({left[0]}) && ({right[0]})",
        False if False in values else None if None in values else True,
    )


def _or(left: tuple[str, bool | None], right: tuple[str, bool | None]) -> tuple[str, bool | None]:
    values = (left[1], right[1])
    return (
        f"({left[0]}) || ({right[0]})",
        True if True in values else None if None in values else False,
    )


def _not(one: tuple[str, bool | None]) -> tuple[str, bool | None]:
    return f"!({one[0]})", None if one[1] is None else not one[1]


TRUTHS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.builds(_and, inner, inner), st.builds(_or, inner, inner), st.builds(_not, inner)
    ),
    max_leaves=8,
)


@bounded
@given(TRUTHS)
def test_a_composed_rule_allows_exactly_when_it_is_true(truth: tuple[str, bool | None]) -> None:
    expression, value = truth
    started = time.process_time()
    assert (judged(expression).outcome == "allowed") == (value is True)
    assert time.process_time() - started < LONGEST_S


WORDS = """evidence .license .files .all( .map( x, x ) ( [ ] == ! && || null true 1 'a' + * ? : has(
matches( timestamp( { } , in .size() 9223372036854775807 - // \\ b'\\xff'"""
NOISE = st.lists(st.sampled_from(WORDS.split()), max_size=40).map(" ".join)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=20)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(string.ascii_letters, max_size=8), inner, max_size=4),
    ),
    max_leaves=12,
)


@bounded
@given(st.one_of(NOISE, st.text(max_size=60)), JSON)
def test_noise_as_policy_and_evidence_never_raises_nor_hangs(expression: str, value: Any) -> None:
    assume(expression.strip())
    started = time.process_time()
    verdict = judged(expression, {"license": value})
    assert time.process_time() - started < LONGEST_S
    if verdict.outcome == "allowed":
        assert engine_says(
            expression,
            {
                "kind": "data",
                "ref": "data/x@1",
                "name": "x",
                "license": value,
                "files": 3.0,
                "holder": None,
            },
            {},
        )


def engine_says(expression: str, evidence: Any, parameters: Any) -> bool:
    """Whether CEL itself, without any of our checks, finds the expression exactly true."""
    from cel_expr_python import cel

    env = cel.NewEnv(
        variables={"evidence": cel.Type.DYN, "parameters": cel.Type.DYN, "now": cel.Type.TIMESTAMP}
    )
    answer = env.compile(expression).eval(
        data={"evidence": evidence, "parameters": parameters, "now": AT}
    )
    return answer.value() is True


TEXTS = {path.stem: path.read_text() for path in sorted(POLICIES.glob("*.yaml"))}
PIECES = [piece for text in TEXTS.values() for piece in text.split()]


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[str, str]:
    """A default policy of which up to three words were replaced, doubled, left out or cut."""
    name = draw(st.sampled_from(sorted(TEXTS)))
    words = re.split(r"(\s+)", TEXTS[name])
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(words) - 1))
        kind = draw(st.sampled_from(["other", "twice", "none", "cut", "noise"]))
        word = words[position]
        words[position] = {"twice": word * 2, "none": "", "cut": word[: len(word) // 2]}.get(
            kind, word
        )
        if kind in ("other", "noise"):
            words[position] = draw(
                st.sampled_from(PIECES) if kind == "other" else st.text(max_size=8)
            )
    return name, "".join(words)


@bounded
@given(spoilt(), st.sampled_from(["data", "seed", "expert", "build", "release"]), st.data())
def test_a_spoilt_policy_is_refused_or_judges_exactly_as_it_is_written(
    tmp_path_factory: pytest.TempPathFactory,
    spoil: tuple[str, str],
    about: str,
    data: st.DataObject,
) -> None:
    name, text = spoil
    folder = tmp_path_factory.getbasetemp() / "spoilt"
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():
        left.unlink()
    (folder / f"{name}.yaml").write_text(text)
    whole = suite(about)
    started = time.process_time()
    try:
        policies = load(folder)
    except Invalid:
        event("refused when loaded")
        return
    facts = copy.deepcopy(whole["evidence"])
    key = data.draw(st.sampled_from(sorted(facts)))
    facts[key] = data.draw(st.one_of(st.just(facts[key]), st.none(), JSON))
    kind = whole["evidence"]["kind"]
    verdict = verdict_on(policies, facts, gate=whole["gate"], kind=kind)
    assert time.process_time() - started < LONGEST_S
    event(verdict.outcome)
    if verdict.outcome == "allowed":
        denying = [policy for policy in policies if policy.enforcement == "deny"]
        plain = json.loads(json.dumps(facts), parse_int=float)
        for expression, parameters in (
            (rule.expression, policy.parameters)
            for policy in denying
            for rule in policy.validations
        ):
            assert engine_says(
                expression, plain, json.loads(json.dumps(parameters), parse_int=float)
            )


# Facts without which a candidate must not pass, whatever stands in their place.
NEEDED = {
    "data": ["license", "source", "pii", "files", "bytes", "kind", "actor", "actor.roll"],
    "seed": ["finite", "model_type", "kind"],
    "expert": [
        "weights",
        "weights.finite",
        "weights.shapes_match",
        "weights.dtype_match",
        "weights.vocabulary_match",
        "weights.tokenizer_match",
        "weights.ancestry",
        "weights.ancestry.descends",
        "weights.ancestry.shared_identical",
        "results",
        "results.0.bits_per_byte",
        "results.0.seed_bits_per_byte",
        "results.1.bits_per_byte",
        "data",
        "data.0.status",
        "data.0.gate",
        "seed_gate",
        "contamination",
        "kind",
    ],
    "build": [
        "seed_gate",
        "seed_data",
        "seed_data.0.status",
        "members",
        "members.0.gate",
        "members.0.status",
        "members.0.data.0.status",
        "members.0.data.0.pii",
        "members.0.licenses",
        "waivers",
        "kind",
    ],
    "release": [
        "seed_license",
        "registrar",
        "approvals",
        "results",
        "results.0.bits_per_byte",
        "results.0.seed_bits_per_byte",
        "results.1.bits_per_byte",
        "routing",
        "routing.dead",
        "active_parameters",
        "tokens_per_s",
        "waivers",
        "members",
    ],
}


@bounded
@given(
    st.sampled_from([(name, path) for name, paths in NEEDED.items() for path in paths]),
    st.one_of(st.just(...), JSON),
)
def test_a_needed_fact_that_is_missing_or_of_another_type_refuses(
    needed: tuple[str, str], value: Any
) -> None:
    name, path = needed
    whole = suite(name)
    kind, gate, evidence = (
        whole["evidence"]["kind"],
        whole["gate"],
        copy.deepcopy(whole["evidence"]),
    )
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    target: Any = evidence
    for part in parents:
        target = target[part]
    before = target[last]
    if value is ...:
        del target[last]
    else:
        assume(_other_type(before, value))
        target[last] = value
    assert verdict_on(DEFAULT, evidence, gate=gate, kind=kind).outcome == "refused"


def _other_type(before: Any, value: Any) -> bool:
    """Whether the value is of another JSON type and not empty: an empty list may stand there."""
    family = {
        bool: "truth",
        int: "number",
        float: "number",
        str: "text",
        list: "list",
        dict: "mapping",
        type(None): "null",
    }
    return family[type(before)] != family[type(value)] and value not in ([], {}, "")


def test_an_expression_without_growth_is_not_refused() -> None:
    for text in (
        "evidence.waivers.map(w, w.rule + ' for ' + w.subject).size() >= 0",
        "evidence.waivers.filter(w, w.rule == '').size() == 0",
        "evidence.waivers.all(w, [w.rule, w.subject].all(text, text != null))",
        "evidence.members.all(m, m.data.filter(d, d.pii != 'none').size() == 0)",
        "evidence.waivers.all(w, [w.rule, w.subject].filter(text, text != null).size() == 2)",
    ):
        expressions.compile_expression(text)


@dataclass(frozen=True)
class Pressing:
    """A program that a signal disturbs; the library makes an error of what its handler raises."""

    program: Any
    signal: signal.Signals

    def eval(self, activation: Any) -> Any:
        try:
            os.kill(os.getpid(), self.signal)
            time.sleep(0.01)
        except KeyboardInterrupt:
            raise RuntimeError("ABORTED") from None
        return self.program.eval(activation=activation)


# The alarm is a Ctrl-C that came while a library was being loaded.
CTRL_C = (signal.SIGINT, signal.SIGALRM)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What is started in the background ignores Ctrl-C, and hands that on."""
    before = {one: signal.signal(one, signal.default_int_handler) for one in CTRL_C}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", CTRL_C)
def test_ctrl_c_while_a_rule_is_judged_is_no_answer_to_it(number: signal.Signals) -> None:
    rule = expressions.compile_expression("evidence.number > 0")
    values = expressions.activation({"number": 1}, {}, AT)
    assert rule.evaluate(values).value is True
    with pytest.raises(KeyboardInterrupt):
        replace(rule, program=Pressing(rule.program, number)).evaluate(values)
    assert {signal.getsignal(one) for one in CTRL_C} == {signal.default_int_handler}
