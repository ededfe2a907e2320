"""Settings as they are written on a command line: ``variant=released ceiling=0.7``."""

from __future__ import annotations

from collections.abc import Iterable

from wholegrain.errors import UserError
from wholegrain.objectives.recipe import toml_value


def parse_settings(words: Iterable[str]) -> dict[str, object]:
    """``name=value`` words to settings; a value is TOML, or else a text.

    Raises:
        UserError: a word without ``=``.

    Example:
        >>> parse_settings(["variant=released", "upper=2.5", "own_only=true"])
        {'variant': 'released', 'upper': 2.5, 'own_only': True}
    """
    found: dict[str, object] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UserError(f'"{word}" is not a setting; write name=value, such as variant=released.')
        found[name] = toml_value(value)
    return found
