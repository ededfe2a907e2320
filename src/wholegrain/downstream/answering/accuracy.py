"""When an answer is right: equal after normalisation; and VQA's soft accuracy where several people answered."""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBERS = {word: str(n) for n, word in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
_DROPPED = re.compile(r"(?<=\d),(?=\d)|['’`\"]|\.(?!\d)")
_BREAKS = re.compile(r"[;:/\[\]()=+\\_<>@,?!{}|*-]")


def normalised(answer: str) -> str:
    """Lower case, without articles and punctuation, number words as digits.

    As VQA's official evaluation (``vqaEval.py`` of GT-Vision-Lab/VQA, ``processPunctuation`` and ``processDigitArticle``), in four points otherwise:
    a hyphen, a vertical line, braces, a star and an exclamation mark break words as well; apostrophes go on both sides, where the official list puts
    them into 120 contractions; an answer that is nothing but an article is left as it is; and the same is done to what is given and to what is right,
    always, where officially what is right is normalised only if the people disagree.

    Example:
        >>> normalised("The two dogs."), normalised("1,000"), normalised("don't"), normalised("2.5")
        ('2 dogs', '1000', 'dont', '2.5')
    """
    words = _BREAKS.sub(" ", _DROPPED.sub("", answer.lower())).split()
    kept = [word for word in words if word not in ARTICLES] or words  # "A" may be an answer of its own
    return " ".join(NUMBERS.get(word, word) for word in kept)


def accuracy(given: str, answers: Sequence[str]) -> float:
    """How right an answer is, 0..1.

    With four or more people's answers VQA's: of each person the other ones' answers count, min(matches / 3, 1), and the mean over the people is taken
    (Antol et al. 2015, "VQA: Visual Question Answering", and its official evaluation, ``vqaEval.py`` of GT-Vision-Lab/VQA). With three or fewer, where
    that could not reach 1, it is right if any one is equal.

    Example:
        >>> accuracy("Red", ["red"]), accuracy("red", ["blue", "red"]), round(accuracy("red", ["red"] * 3 + ["blue"] * 7), 2)
        (1.0, 1.0, 0.9)
    """
    matches = [normalised(answer) == normalised(given) for answer in answers]
    if len(answers) < 4:
        return float(any(matches))
    return sum(min(1.0, (sum(matches) - match) / 3) for match in matches) / len(matches)
