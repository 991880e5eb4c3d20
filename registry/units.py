"""Numbers as people read them, on a terminal, on a page and in a report.

Three significant digits, and decimal units: 1 kB is 1000 bytes.
"""

LARGER_SIZES = ("kB", "MB", "GB", "TB", "PB")


def size(number_of_bytes: float) -> str:
    """Write a number of bytes with its unit.

    Args:
        number_of_bytes: at least 0.

    Returns:
        For example "512 B", "602 kB" or "1.23 GB".
    """
    value, unit = float(number_of_bytes), "B"
    for larger in LARGER_SIZES:
        # From 999.5 on it would be rounded to 1000, which is 1 of the larger unit.
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{_three_digits(value)} {unit}"


def duration(seconds: float) -> str:
    """Write a duration in the unit that people would say it in.

    Args:
        seconds: at least 0.

    Returns:
        For example "420 ms", "12.3 s", "4.52 min" or "31.0 h".
    """
    if 0 < seconds < 0.9995:
        return f"{_three_digits(1000 * seconds)} ms"
    if seconds < 120:
        return f"{_three_digits(seconds)} s"
    minutes = seconds / 60
    if minutes < 120:
        return f"{_three_digits(minutes)} min"
    return f"{_three_digits(minutes / 60)} h"


def percent(share: float) -> str:
    """Write a share of 1 in percent, for example "41.3 %" for 0.413."""
    return f"{_three_digits(100 * share)} %"


def counted(number: int, noun: str) -> str:
    """Write how many there are of something, for example "1 object" or "2,000 objects"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _three_digits(value: float) -> str:
    """Round to three significant digits; below 1 to two decimals, and 1000 or more to 1."""
    magnitude = abs(value)
    decimals = 0
    if magnitude < 9.995:
        decimals = 2
    elif magnitude < 99.95:
        decimals = 1
    return f"{value:.{decimals}f}"
