"""Pictures that cannot be read, among many: counted, the first few named, and all of them too many."""

from __future__ import annotations

import sys

from wholegrain.errors import UserError

SHOWN = 5


class BrokenPictures:
    """Told of each; the first :data:`SHOWN` are named on standard error at the end, with how many there are."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def __call__(self, place: int, sentence: str) -> None:
        self.sentences.append(sentence)

    def check(self, total: int) -> None:
        """Says what was left out of ``total`` pictures.

        Raises:
            UserError: all of them.
        """
        count = len(self.sentences)
        if count and count == total:
            raise UserError(f"None of the {total:,} pictures can be read; the first: {self.sentences[0]}")
        for sentence in self.sentences[:SHOWN]:
            print(f"left out: {sentence}", file=sys.stderr)
        if count > SHOWN:
            print(f"left out: {count - SHOWN:,} more that cannot be read", file=sys.stderr)
