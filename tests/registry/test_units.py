"""Numbers for people: three significant digits, decimal units, and no "1000 kB"."""

import pytest

from registry.units import counted, duration, figure, percent, power, size


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_995, "10.0 kB"),
        (601_600, "602 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_234_567_890, "1.23 GB"),
        (45_600_000_000, "45.6 GB"),
        (7_890_000_000_000, "7.89 TB"),
        (5e18, "5000 PB"),
    ],
)
def test_a_size_has_three_digits_and_a_decimal_unit(number: float, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (0.0042, "4.20 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (12.34, "12.3 s"),
        (119, "119 s"),
        (271, "4.52 min"),
        (7_200, "2.00 h"),
        (111_600, "31.0 h"),
    ],
)
def test_a_duration_is_said_in_the_unit_that_people_would_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.00 %"), (0.00837, "0.837 %"), (0.0413, "4.13 %"), (0.4132, "41.3 %"), (1, "100 %")],
)
def test_a_share_is_a_percentage_of_three_digits(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"),
        (0.00837, "0.00837"),
        (0.8930864, "0.893"),
        (0.9996, "1.00"),
        (2.97747, "2.98"),
        (9.996, "10.0"),
        (126.4, "126"),
        (999.4, "999"),
        (999.6, "1000"),
        (48213.2, "48213"),
        (-0.0317, "-0.0317"),
    ],
)
def test_a_measured_value_has_three_significant_digits(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(5_944_442_880, "5.94 × 10⁹"), (10**21, "1.00 × 10²¹"), (7, "7.00 × 10⁰")]
)
def test_a_large_number_is_three_digits_and_a_power_of_ten(value: float, text: str) -> None:
    assert power(value) == text


def test_one_thing_is_not_counted_as_several() -> None:
    assert [counted(number, "object") for number in (0, 1, 2000)] == [
        "0 objects",
        "1 object",
        "2,000 objects",
    ]
