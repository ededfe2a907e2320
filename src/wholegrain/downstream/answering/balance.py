"""Questions about scenes, balanced: of every text of a question each of its answers is right as often as any other.

So the best that can be done without the picture, the commonest answer to each text on the very same questions, is right in one of as many cases as
the text has answers: not approximately, but by count. GQA (Hudson & Manning 2019, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional
Question Answering") smooths answers of a group of questions, VQA v2 (Goyal et al. 2017) pairs pictures; here scenes are plenty, and whole *blocks*, one
question of each answer, are kept or left out together.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wholegrain.data.dataset import Dataset
from wholegrain.downstream.answering.forms import KINDS, WORDINGS, Candidate, candidates
from wholegrain.downstream.answering.scene_facts import SceneFacts, scene_facts, world_nouns
from wholegrain.errors import UserError


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    Attributes:
        item: a stable id.
        key: of the picture.
        text: of the question.
        answers: one right answer; or those of several people, as in VQA.
        kind: the part of the results that it counts in.
        chance: what guessing among the text's answers scores; ``None`` if it is not known.
    """

    item: str
    key: str
    text: str
    answers: tuple[str, ...]
    kind: str = ""
    chance: float | None = None


def scene_questions(dataset: Dataset, split: str, most: int, seed: int = 0, kinds: Sequence[str] = KINDS, pictures: int = 0) -> list[Question]:
    """Balanced questions about the scenes of a split.

    Args:
        most: questions of each kind at most; whole blocks are left out.
        seed: chooses blocks and wordings; the same seed, the same questions.
        kinds: which.
        pictures: about the first so many of the split's; 0 is all.

    Raises:
        UserError: these are no scenes, there is no such split, or a kind has no questions.
    """
    nouns = world_nouns(dict(dataset.manifest))
    keys = dataset.keys(split)[: pictures or None]
    facts = [] if nouns is None else [found for key in keys if (found := scene_facts(dataset.record(key), nouns)) is not None]
    if nouns is None or not facts:
        raise UserError(
            f"The split {split} of {dataset.folder} has no scenes to ask about; draw some with `wholegrain scenes`, or give --questions FILE."
        )
    return ask_scenes(facts, sorted(nouns), most, seed, kinds)


def ask_scenes(facts: Sequence[SceneFacts], nouns: Sequence[str], most: int, seed: int = 0, kinds: Sequence[str] = KINDS) -> list[Question]:
    """:func:`scene_questions` of facts that are at hand. Raises :class:`UserError` if a kind has no questions among so few pictures."""
    asked: dict[tuple[str, str, tuple[str, ...]], list[tuple[str, Candidate]]] = defaultdict(list)
    for one in facts:
        for candidate in dict.fromkeys(candidates(one, nouns, np.random.default_rng([seed, _number(one.key)]))):
            if candidate.kind in kinds:
                asked[candidate.asked].append((one.key, candidate))
    blocks: dict[str, list[list[Question]]] = {kind: [] for kind in kinds}
    for about, rows in sorted(asked.items()):
        blocks[about[0]] += _blocks(about, rows, seed)
    for kind, found in blocks.items():
        if not found:
            raise UserError(f"Among {len(facts):,} scenes no balanced question of the kind {kind!r} can be asked; draw more scenes.")
    return [question for kind in kinds for question in _some(blocks[kind], most, seed)]


def _some(blocks: list[list[Question]], most: int, seed: int) -> list[Question]:
    """Whole blocks up to a number of questions; forms and texts in turn, so that none crowds out another. At least one block."""
    turn: Counter[str] = Counter()
    order = []
    for block in (blocks[i] for i in np.random.default_rng([seed, 3]).permutation(len(blocks)).tolist()):
        form = block[0].item.split(":", 1)[0]
        order.append((turn[form], len(order), block))
        turn[form] += 1
    kept: list[Question] = []
    for _, _, block in sorted(order, key=lambda row: row[:2]):
        if kept and len(kept) + len(block) > most:
            continue
        kept += block
    return kept


def _blocks(about: tuple[str, str, tuple[str, ...]], rows: Sequence[tuple[str, Candidate]], seed: int) -> list[list[Question]]:
    """One question's blocks: of each answer one picture. Answers too seldom to be worth it are left out, pictures too many as well."""
    by_answer: dict[str, list[str]] = defaultdict(list)
    for key, candidate in rows:
        by_answer[candidate.answer].append(key)
    chosen, count = _worth(by_answer, rows[0][1].least)
    kind, form, words = about
    random = np.random.default_rng([seed, _number(repr(about))])
    picked = {answer: [by_answer[answer][i] for i in random.permutation(len(by_answer[answer]))[:count].tolist()] for answer in chosen}
    wordings, first = WORDINGS[kind, form], int(random.integers(len(WORDINGS[kind, form])))
    form_name = f"{kind}-{form}" + ("-thing" if "thing" in " ".join(words) and form != "all" else "")
    blocks = []
    for number in range(count):
        text = wordings[(first + number) % len(wordings)].format(*words)
        blocks.append([
            Question(f"{form_name}:{picked[a][number]}:{text.removesuffix(' ?')}", picked[a][number], text, (a,), kind, 1 / len(chosen)) for a in chosen
        ])  # fmt: skip
    return blocks


def _worth(by_answer: Mapping[str, Sequence[str]], least: int) -> tuple[list[str], int]:
    """Which answers are kept, and how many times each: as many questions as can be, and of equal ones more answers; at least ``least`` answers."""
    ordered = sorted(by_answer, key=lambda answer: (-len(by_answer[answer]), answer))
    best = max(range(least, len(ordered) + 1), key=lambda n: (n * len(by_answer[ordered[n - 1]]), n), default=0)
    return (sorted(ordered[:best]), len(by_answer[ordered[best - 1]])) if best else ([], 0)


def _number(text: str) -> int:
    """32 bits of a text's hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
