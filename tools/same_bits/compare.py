"""What differs between two records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Items = Mapping[str, Mapping[str, str]]
"""Item -> what it wrote -> its digest."""


def compare(before: Items, after: Items) -> list[str]:
    """One line for each item that is not the same on both sides, or is on one side alone; what is the same says nothing.

    Example:
        >>> compare({"a": {"x": "1", "y": "2"}, "b": {}}, {"a": {"x": "3", "y": "2"}, "c": {}})
        ['a: x (1 -> 3)', 'b: missing after', 'c: missing before']
    """
    found = []
    for name in sorted({*before, *after}):
        if name not in after or name not in before:
            found.append(f"{name}: missing {'after' if name in before else 'before'}")
        elif different := list(_different(before[name], after[name])):
            found.append(f"{name}: {', '.join(different)}")
    return found


def _different(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        one, two = before.get(name), after.get(name)
        if one != two:
            yield f"{name} ({_short(one)} -> {_short(two)})"


def _short(value: str | None) -> str:
    return "missing" if value is None else value if value.startswith("error") else value[:8] + value[64:]


def notes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What else is not the same on both sides: a difference may come from there."""
    one, two = before["made"], after["made"]
    names = sorted({*one, *two} - {"commit"})
    return [f"{name} was {one.get(name)} and is {two.get(name)}" for name in names if one.get(name) != two.get(name)]
