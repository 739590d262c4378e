"""Quantities as tc writes them: 15ms, 10mbit, 2%. Each raises ValueError with a sentence that says what is accepted."""

from __future__ import annotations

import re
from typing import Final

_TIMES: Final = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "usec": 1e-6, "ns": 1e-9}
# tc: "bit" counts bits, "bps" bytes; k, m, g are powers of 1000, ki, mi, gi of 1024
_PREFIXES: Final = {
    "": 1,
    **{letter: 1000 ** (power + 1) for power, letter in enumerate("kmgt")},
    **{letter + "i": 1024 ** (power + 1) for power, letter in enumerate("kmgt")},
}
_RATES: Final = {
    prefix + unit: factor * bits
    for prefix, factor in _PREFIXES.items()
    for unit, bits in (("bit", 1), ("bps", 8))
}


def seconds(text: str) -> float:
    """15ms, 2s, 100us."""
    return _quantity(text, _TIMES, "a time with its unit, such as 15ms or 2s")


def bits_per_second(text: str) -> float:
    """10mbit, 500kbit, 1gbit; 1mbps is a megabyte per second."""
    return _quantity(text, _RATES, "a rate with its unit, such as 10mbit")


def fraction(text: str) -> float:
    """2% is 0.02."""
    value = _quantity(text, {"%": 0.01}, "a percentage, such as 2%")
    if value > 1:
        raise ValueError(f"{text!r} is more than 100%")
    return value


def ranges(text: str) -> tuple[tuple[int, int], ...]:
    """2-7,11: packets by their number, from 1 on."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a list of packet numbers, such as 2-7,11")
        first = int(match[1])
        found.append((first, int(match[2] or first)))
    return tuple(found)


def periods(text: str) -> tuple[float, float]:
    """5s/2s: works for 5 s, is dead for 2 s, and so on."""
    on, slash, off = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r} is not a pair of times, such as 5s/2s")
    return seconds(on), seconds(off)


def _quantity(text: str, units: dict[str, float] | dict[str, int], wanted: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z%]*)\s*", text)
    unit = match[2].lower() if match else ""
    if match is not None and unit in units:
        return float(match[1]) * units[unit]
    if match is not None and not unit and float(match[1]) == 0:
        return 0.0
    raise ValueError(f"{text!r} is not {wanted}")
