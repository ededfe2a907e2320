"""What ``wholegrain ask`` does: trains a projector and a decoder on a model's visual tokens, and asks them questions about pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from wholegrain.workflows.head_arguments import HeadArguments

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from wholegrain.downstream.answering.balance import Question
    from wholegrain.downstream.answering.measure import Answers
    from wholegrain.downstream.answering.settings import AskSettings
    from wholegrain.downstream.answering.task import AskTargets, AskTask
    from wholegrain.downstream.task import PictureData
    from wholegrain.evaluation.result import TaskResult
    from wholegrain.progress import Show
    from wholegrain.report.answering_page import AnswerCard
    from wholegrain.towers.model import Model
    from wholegrain.workflows.downstream import HeadDone, HeadWork

SHOWN = 24


@dataclass(frozen=True, kw_only=True)
class AskArguments(HeadArguments):
    """Options of ``wholegrain ask`` beside those that all tasks on an image tower share.

    Attributes:
        questions: your own questions to measure on: JSONL, JSON, CSV or TSV with picture, question and answer or answers; DATA is then the
            folder that its pictures lie in.
        train_questions: your own questions to train on, likewise.
        decoder: a folder of a causal language model (or a LLaVA) of Hugging Face; by default a little Llama is trained from scratch.
        save_llava: a new folder for image tower, projector and decoder together, as transformers' LlavaForConditionalGeneration.
    """

    questions: Path | None = None
    train_questions: Path | None = None
    decoder: Path | None = None
    save_llava: Path | None = None

    @property
    def all_overrides(self) -> list[str]:
        """With the decoder's folder."""
        return [*super().all_overrides, *([] if self.decoder is None else [f"--decoder.folder={json.dumps(str(self.decoder))}"])]


@dataclass(frozen=True)
class _Pictures:
    """Pictures, whose hash says which decoder reads them, too: a head trained on another one is another head."""

    pictures: PictureData
    content_hash: str

    def pixels(self, key: str, /) -> np.ndarray:
        return self.pictures.pixels(key)


@dataclass(frozen=True)
class _Data:
    """Pictures, and questions to train and to measure on."""

    pictures: PictureData
    train: Sequence[Question]
    test: Sequence[Question]


def ask(args: AskArguments) -> HeadDone | None:
    """Trains and measures; ``None`` in all processes but the main one."""
    from wholegrain.downstream.answering.settings import AskSettings
    from wholegrain.downstream.answering.words import NEEDS
    from wholegrain.downstream.settings import load_settings
    from wholegrain.errors import UserError
    from wholegrain.files import shown
    from wholegrain.towers.sources.hf_library import transformers_for
    from wholegrain.workflows.downstream import carry_out

    transformers_for(NEEDS)
    settings = load_settings("ask", AskSettings, args.recipe, args.all_overrides)
    if args.save_llava is not None and args.save_llava.exists():
        raise UserError(f"{shown(args.save_llava)} is there already; give --save-llava a new folder, or delete it.")
    return carry_out(args, partial(_work, args, settings), "ask")


def _work(args: AskArguments, settings: AskSettings, model: Model) -> HeadWork[Question, AskTargets]:
    from wholegrain.downstream.answering.earlier_tower import EarlierTower
    from wholegrain.downstream.answering.task import AskTask
    from wholegrain.workflows.downstream import HeadWork

    if settings.tokens.layer == "penultimate":
        model.image_tower = EarlierTower(model.image_tower, model.preprocess.size)
    data = _data(args, settings)
    task = AskTask(settings, data.train)
    facts: dict[str, object] = {"dataset": str(args.data), "split": args.split, "content_hash": data.pictures.content_hash}
    facts |= {"questions": None if args.questions is None else str(args.questions), "asked": _digest(data.test)}
    after = None if args.save_llava is None else partial(_save_llava, args.save_llava)
    return HeadWork(task, data.pictures, data.train, partial(_measure, args, data, task), facts, after)


def _save_llava(folder: Path, head: nn.Module, model: Model, show: Show) -> None:
    from wholegrain.downstream.answering.answerer import Answerer
    from wholegrain.downstream.answering.hand_over import save_llava

    assert isinstance(head, Answerer)
    show("writing the LLaVA", 0, 0)
    save_llava(model, head, folder)


def _digest(questions: Sequence[Question]) -> str:
    from wholegrain.files import digest

    return digest([repr(question) for question in questions])


def _data(args: AskArguments, settings: AskSettings) -> _Data:
    """Questions about scenes, or of files."""
    from wholegrain.data.dataset import Dataset
    from wholegrain.downstream.answering.balance import scene_questions
    from wholegrain.downstream.answering.reader import FolderPictures, read_questions
    from wholegrain.downstream.answering.words import folder_digest
    from wholegrain.errors import UserError
    from wholegrain.files import digest

    asked, seed = settings.data, settings.training.seed
    if args.questions is None and args.train_questions is None:
        dataset: PictureData = Dataset(args.data)
        assert isinstance(dataset, Dataset)
        train = scene_questions(dataset, args.train_split, asked.train_questions, seed, asked.kinds, asked.train_pictures)
        test = scene_questions(dataset, args.split, asked.questions, 0, asked.kinds)  # every seed is asked the same
    else:
        if args.questions is None or args.train_questions is None:
            raise UserError("Give both --questions (to measure on) and --train-questions; or neither, with scenes.")
        train, test = (read_questions(path, args.data) for path in (args.train_questions, args.questions))
        dataset = FolderPictures(args.data, (args.train_questions, args.questions), [one.key for one in (*train, *test)])
    if settings.decoder.folder:
        both = digest([dataset.content_hash, folder_digest(Path(settings.decoder.folder))])
        dataset = _Pictures(dataset, both)
    return _Data(dataset, train, test)


def _measure(
    args: AskArguments, data: _Data, task: AskTask, head: nn.Module, model: Model, show: Show
) -> tuple[list[TaskResult], str]:
    """The result, and the page."""
    from wholegrain.downstream.answering.answerer import Answerer
    from wholegrain.downstream.answering.measure import answer_all, result_of
    from wholegrain.downstream.pictures import TowerTokens
    from wholegrain.report.answering_page import answering_page

    assert isinstance(head, Answerer)
    settings = task.settings
    tokens = TowerTokens(model, data.pictures, task.needs, settings.training.precision)
    answers = answer_all(head, tokens, data.test, settings.decoder.longest, show=show)
    tuned = "frozen" if model.image_frozen else f"tuned ({settings.training.tune})"
    decoder = f"the model of {settings.decoder.folder}" if settings.decoder.folder else f"a Llama of {settings.decoder.layers} layers from scratch"
    said = (
        f"LLaVA's projector and {decoder} on {' and '.join(settings.tokens.parts)} ({settings.tokens.layer} layer) of the image tower ({tuned}), "
        f"{settings.training.steps:,} steps of {settings.training.batch} on {len(data.train):,} questions, seed {settings.training.seed}."
    )
    results = [result_of(data.test, answers, said, args.seed)]
    return results, answering_page(args.model, args.data.resolve().name, _cards(data, answers, args.seed), results[0])


def _cards(data: _Data, answers: Answers, seed: int) -> list[AnswerCard]:
    """Some pictures with question and answer, wrong ones first."""
    from wholegrain.downstream.answering.accuracy import accuracy
    from wholegrain.downstream.answering.measure import wrong_first
    from wholegrain.report.answering_page import SIDE, AnswerCard
    from wholegrain.report.pictures import data_uri, seen_part, shown_size

    found = list(wrong_first(data.test, answers, seed))
    right = {n: accuracy(answers.given[n], data.test[n].answers) for n in found}
    wrong = list(islice((n for n in found if right[n] < 0.5), SHOWN))
    chosen = [*wrong, *islice((n for n in found if right[n] >= 0.5), SHOWN // 2)]
    cards = []
    for n in chosen:
        question = data.test[n]
        pixels = data.pictures.pixels(question.key)
        size = shown_size((0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0])), SIDE)
        expected = " / ".join(dict.fromkeys(question.answers))
        uri = data_uri(seen_part(pixels, side=SIDE))
        said = (question.text, question.kind, answers.given[n], expected, answers.blind[n], right[n])
        cards.append(AnswerCard(uri, size[0], size[1], question.key, *said))
    return cards
