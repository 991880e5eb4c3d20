"""References read and print the same text; what cannot be read is refused with an example."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import Invalid
from registry.records.kinds import Kind
from registry.records.references import Reference, parse

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)


@given(
    st.sampled_from([kind for kind in Kind if kind != Kind.BUILD]),
    names,
    st.none() | st.integers(1, 10**8),
)
def test_a_printed_reference_reads_as_itself(kind: Kind, name: str, version: int | None) -> None:
    ref = Reference(kind, name, version)
    assert parse(str(ref)) == parse(ref) == parse(str(ref), kind) == ref


def test_builds_have_a_number_and_no_name() -> None:
    assert parse("build/7") == Reference(Kind.BUILD, "", 7)
    assert str(parse("build/7")) == "build/7"
    assert parse("build").version is None
    assert parse("build/7").path == "7"
    assert parse("data/math@2").path == "math/2"


def test_a_name_alone_will_do_where_the_kind_is_known() -> None:
    assert parse("math", kind="expert") == parse("expert/math")
    assert parse("math@3", kind="expert").version == 3


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "math",
            "expert/",
            "expert/Math",
            "expert/../x",
            "expert/a b",
            "expert/a/b",
            "expert/ä",
            "expert/" + "a" * 65,
        ),
        *(
            "expert/a@0",
            "expert/a@x",
            "expert/a@-1",
            "expert/a@1@2",
            "model/a",
            "build/x",
            "build/0",
            "build/7@1",
        ),
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(text)
    assert caught.value.exit_status == 2
    assert repr(text) in str(caught.value)


def test_a_reference_of_another_kind_is_refused() -> None:
    with pytest.raises(Invalid):
        parse("data/math", kind="expert")
