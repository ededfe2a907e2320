"""Pictures with the captions that are learned, or are references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.suggest import closest


@dataclass(frozen=True)
class CaptionExample:
    """One picture.

    Attributes:
        key: of its record.
        captions: of the roles asked for: one is drawn at every step; in tests the references.
    """

    key: str
    captions: tuple[str, ...]


def captioned(dataset: Dataset, split: str, roles: Sequence[str]) -> list[CaptionExample]:
    """The pictures of a split with their captions of the first of ``roles`` that each has; pictures without any are left out.

    Raises:
        UserError: the split is not there, a picture has no caption of these roles in all of it.
    """
    if split not in dataset.splits:
        raise UserError(f'{dataset.folder} has no split "{split}"; {closest(split, dataset.splits)}')
    found = []
    for key in dataset.keys(split):
        by_role: dict[str, list[str]] = {}
        for caption in dataset.record(key).captions:
            by_role.setdefault(caption.role, []).append(caption.text)
        first = next((by_role[role] for role in roles if role in by_role), None)
        if first:
            found.append(CaptionExample(key, tuple(first)))
    if not found:
        has = ", ".join(sorted(dataset.roles)) or "none"
        raise UserError(
            f'No picture of the split "{split}" of {dataset.folder} has a caption of the roles {", ".join(roles)}; '
            f"choose with --roles among those that are there: {has}."
        )
    return found
