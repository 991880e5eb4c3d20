"""Numbers as people read them, on a terminal, on a page and in a report.

Three significant digits, and decimal units: 1 kB is 1000 bytes.
"""

LARGER_SIZES = ("kB", "MB", "GB", "TB", "PB")
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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
    return f"{value:.0f} B" if unit == "B" else f"{figure(value)} {unit}"


def duration(seconds: float) -> str:
    """Write a duration in the unit that people would say it in.

    Args:
        seconds: at least 0.

    Returns:
        For example "420 ms", "12.3 s", "4.52 min" or "31.0 h".
    """
    if 0 < seconds < 0.9995:
        return f"{figure(1000 * seconds)} ms"
    if seconds < 120:
        return f"{figure(seconds)} s"
    minutes = seconds / 60
    if minutes < 120:
        return f"{figure(minutes)} min"
    return f"{figure(minutes / 60)} h"


def percent(share: float) -> str:
    """Write a share of 1 in percent, for example "41.3 %" for 0.413."""
    return f"{figure(100 * share)} %"


def counted(number: int, noun: str) -> str:
    """Write how many there are of something, for example "1 object" or "2,000 objects"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def figure(value: float) -> str:
    """Write a measured value with three significant digits.

    Args:
        value: any finite number.

    Returns:
        For example "0.893", "2.98" or "126"; from 1000 on every digit before the point.
    """
    magnitude, decimals, limit = abs(value), 2, 9.995
    while decimals > 0 and magnitude >= limit:
        decimals, limit = decimals - 1, limit * 10
    while 0 < magnitude < limit / 10 and decimals >= 2:
        decimals, limit = decimals + 1, limit / 10
    return f"{value:.{decimals}f}"


def power(value: float) -> str:
    """Write a large number as three digits and a power of ten, for example "5.94 × 10⁹"."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"
