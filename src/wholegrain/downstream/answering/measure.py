"""From answers to a result: accuracy per kind beside what is said without the picture, and with another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wholegrain.downstream.answering.accuracy import accuracy
from wholegrain.downstream.answering.answerer import Answerer
from wholegrain.downstream.answering.balance import Question
from wholegrain.downstream.pictures import TowerTokens
from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.progress import Show, counted, nowhere

QUESTION_ONLY = "accuracy_question_only"


@dataclass(frozen=True)
class Answers:
    """What was said to N questions.

    Attributes:
        given: with the picture.
        blind: with the mean picture in its place.
        exchanged: with another picture; ``None`` where there is no other.
    """

    given: list[str]
    blind: list[str]
    exchanged: list[str] | None


def answer_all(
    head: Answerer, tokens: TowerTokens, questions: Sequence[Question], longest: int, *, seed: int = 0, show: Show = nowhere, batch: int = 64
) -> Answers:
    """Asks all questions three times: of their pictures, of none, of other ones.

    Of none: every picture's visual tokens are the mean over all pictures that are asked about, place by place; so the decoder sees what it is used to see,
    but nothing of this picture.
    """
    keys = [question.key for question in questions]
    tokens.keep(keys, lambda text: show(text, 0, 0))
    mean_SV = _mean(head, tokens, list(dict.fromkeys(keys)), batch, show)
    other_N = stand_ins(keys, seed)
    tick = counted("answers", len(questions) * (2 if other_N is None else 3), show)

    def say(pictures: Sequence[str] | None) -> list[str]:
        said: list[str] = []
        for start in range(0, len(questions), batch):
            asked = [question.text for question in questions[start : start + batch]]
            if pictures is None:
                visual_BSV = mean_SV.expand(len(asked), -1, -1)
            else:
                visual_BSV = _seen(head, tokens, pictures[start : start + batch])
            said += head.answers(visual_BSV, asked, longest)
            tick(len(asked))
        return said

    return Answers(say(keys), say(None), None if other_N is None else say([keys[n] for n in other_N.tolist()]))


@torch.no_grad()
def _seen(head: Answerer, tokens: TowerTokens, keys: Sequence[str]) -> Tensor:
    return head.sees(tokens.raw(keys))


def _mean(head: Answerer, tokens: TowerTokens, keys: Sequence[str], batch: int, show: Show) -> Tensor:
    """The mean visual tokens ``[S, V]``."""
    total = None
    for _, raw in tokens.batches(keys, batch, show):
        part = head.sees(raw).double().sum(0)
        total = part if total is None else total + part
    assert total is not None
    return (total / len(keys)).float()


def result_of(questions: Sequence[Question], answers: Answers, said: str = "", seed: int = 0) -> TaskResult:
    """Figures ``accuracy`` and ``accuracy_question_only``, over all questions and by kind; the items keep questions and answers.

    Args:
        said: of the training, for the protocol.
    """
    value = {"accuracy": _right(questions, answers.given), QUESTION_ONLY: _right(questions, answers.blind)}
    chance = [np.nan if question.chance is None else question.chance for question in questions]
    known = {name: np.array(chance) for name in value if not all(np.isnan(chance))}
    shuffled = {} if answers.exchanged is None else {"accuracy": _right(questions, answers.exchanged)}
    kept = {"question": [one.text for one in questions], "right": [" | ".join(one.answers) for one in questions], "answer": answers.given}
    kept |= {"answer_question_only": answers.blind} | ({} if answers.exchanged is None else {"answer_shuffled": answers.exchanged})
    kinds, keys = [question.kind for question in questions], [question.key for question in questions]
    rows = Rows([question.item for question in questions], kinds, keys, value, known, shuffled, extra=kept)
    return TaskResult("ask", f"{_protocol(questions)} {said}".strip(), tuple(figures(rows, seed=seed)), table(rows))


def _right(questions: Sequence[Question], given: Sequence[str]) -> np.ndarray:
    return np.array([accuracy(answer, question.answers) for question, answer in zip(questions, given, strict=True)])


def _protocol(questions: Sequence[Question]) -> str:
    pictures = len({question.key for question in questions})
    soft = any(len(question.answers) > 3 for question in questions)
    how = "VQA's soft accuracy (min of matches / 3 and 1, each person left out in turn)" if soft else "right if equal after normalisation"
    chance = "" if questions[0].chance is None else (
        " Chance: one of the text's answers, each of which is right equally often, so that no answer to a text alone is right more often;"
    )  # fmt: skip
    return (
        f"{len(questions):,} questions about {pictures:,} pictures, greedy answers, {how}; intervals over pictures.{chance} question only: the mean "
        "picture's tokens in every picture's place; shuffled: another picture's."
    )


def wrong_first(questions: Sequence[Question], answers: Answers, seed: int) -> Iterator[int]:
    """Places of questions: wrong ones first, the kinds in turn, in a random order of the seed."""
    order = np.random.default_rng([seed, 11]).permutation(len(questions)).tolist()
    right_N = _right(questions, answers.given)
    turn: dict[tuple[bool, str], int] = {}
    ranked = []
    for n in order:
        group = (bool(right_N[n] >= 0.5), questions[n].kind)
        turn[group] = turn.get(group, 0) + 1
        ranked.append((group[0], turn[group], len(ranked), n))
    yield from (n for *_, n in sorted(ranked))
