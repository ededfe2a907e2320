"""What ``wholegrain caption`` does: trains a captioner on a model's patches, and counts what its captions get right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wholegrain.workflows.head_arguments import HeadArguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from wholegrain.data.dataset import Dataset
    from wholegrain.downstream.captioning.decoder import Decoder
    from wholegrain.downstream.captioning.examples import CaptionExample
    from wholegrain.downstream.captioning.measure import Pictures
    from wholegrain.downstream.captioning.settings import CaptionSettings
    from wholegrain.downstream.captioning.task import CaptionTargets, CaptionTask
    from wholegrain.evaluation.result import TaskResult
    from wholegrain.progress import Show
    from wholegrain.report.caption_page import CaptionCard
    from wholegrain.towers.model import Model
    from wholegrain.workflows.downstream import HeadDone, HeadWork

SHOWN = 18


@dataclass(frozen=True, kw_only=True)
class CaptionArguments(HeadArguments):
    """Options of ``wholegrain caption`` beside those that all tasks on an image tower share.

    Attributes:
        decoder: a Hugging Face folder of a causal language model (GPT-2, Llama, …), which stays as it is; by default a small one is trained on the
            data's captions first.
        roles: captions to learn, and to compare with: of each picture those of the first of these roles that it has; the recipe's by default (detail
            web).
        beams: of the beam search; 1 is greedy; the recipe's by default.
    """

    decoder: Path | None = None
    roles: tuple[str, ...] = ()
    beams: int | None = None


def caption(args: CaptionArguments) -> HeadDone | None:
    """Trains and measures; ``None`` in all processes but the main one."""
    from wholegrain.data.dataset import Dataset
    from wholegrain.downstream.captioning.decoder import load_decoder, require_transformers
    from wholegrain.downstream.captioning.examples import captioned
    from wholegrain.downstream.captioning.scores import require_scorer
    from wholegrain.evaluation.result_folders import check_results_folder
    from wholegrain.workflows.downstream import carry_out

    require_transformers()
    require_scorer()
    settings, dataset = _settings(args), Dataset(args.data)
    check_results_folder(args.folder("caption"))
    train, test = (captioned(dataset, split, settings.data.roles) for split in (args.train_split, args.split))
    folder = args.decoder or _trained_decoder(args, settings, train)
    decoder = load_decoder(folder, settings.data.max_tokens)
    settings = replace(settings, decoder=replace(settings.decoder, digest=decoder.digest))
    return carry_out(args, partial(_work, args, settings, dataset, (train, test), decoder), "caption")


def _settings(args: CaptionArguments) -> CaptionSettings:
    """The recipe with the options."""
    from wholegrain.downstream.captioning.settings import CaptionSettings
    from wholegrain.downstream.settings import load_settings

    settings = load_settings("caption", CaptionSettings, args.recipe, args.all_overrides)
    if args.roles:
        settings = replace(settings, data=replace(settings.data, roles=args.roles))
    if args.beams is not None:
        from wholegrain.errors import UserError

        if args.beams < 1:
            raise UserError(f"--beams is {args.beams}; it must be 1 or more.")
        settings = replace(settings, generation=replace(settings.generation, beams=args.beams))
    return settings


def _trained_decoder(args: CaptionArguments, settings: CaptionSettings, train: Sequence[CaptionExample]) -> Path:
    """The folder of the small language model of these captions, trained now unless it is there."""
    from wholegrain.downstream.captioning.language_model import identity, train_language_model
    from wholegrain.locks import locked
    from wholegrain.progress import showing
    from wholegrain.training.distributed.processes import init_distributed

    texts = [text for example in train for text in example.captions]
    most, seed = settings.data.max_tokens, settings.training.seed
    out = args.folder("caption")
    folder = (args.cache or out) / f"decoder-{identity(texts, settings.decoder, most, seed)}"
    with init_distributed(args.device) as context, showing() as show:

        def make() -> None:
            if (folder / "config.json").exists():
                return
            _refuse_another(out)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder.parent, "training a decoder"):
                train_language_model(texts, settings.decoder, most, seed, folder, context.device, show)

        context.on_main_process(make)
        context.barrier()
    return folder


def _refuse_another(out: Path) -> None:
    """A run that has begun had its decoder: one that is not there is another run's."""
    from wholegrain.errors import UserError
    from wholegrain.files import shown

    if (out / "run.json").exists():
        raise UserError(
            f"{shown(out)} holds another run (its decoder was trained on other captions or with other settings, or is gone); choose another folder "
            f"with --out, or delete this one."
        )


def _work(
    args: CaptionArguments,
    settings: CaptionSettings,
    dataset: Dataset,
    examples: tuple[Sequence[CaptionExample], Sequence[CaptionExample]],
    decoder: Decoder,
    model: Model,
) -> HeadWork[CaptionExample, CaptionTargets]:
    from wholegrain.downstream.captioning.measure import pictures_of
    from wholegrain.downstream.captioning.task import CaptionTask
    from wholegrain.workflows.downstream import HeadWork

    task, (train, test) = CaptionTask(settings, decoder), examples
    pictures = pictures_of(dataset, test)
    facts = {
        "dataset": str(args.data), "split": args.split, "content_hash": dataset.content_hash, "decoder": decoder.digest, "roles": list(settings.data.roles),
        "trained_captions": sum(len(example.captions) for example in train),
    }  # fmt: skip
    return HeadWork(task, dataset, train, partial(_measure, args, dataset, pictures, task), facts)


def _measure(
    args: CaptionArguments, dataset: Dataset, pictures: Pictures, task: CaptionTask, head: nn.Module, model: Model, show: Show
) -> tuple[list[TaskResult], str]:
    """The captions' result, and the page."""
    from wholegrain.downstream.captioning.captioner import Captioner
    from wholegrain.downstream.captioning.generate import blind_caption, captions_of
    from wholegrain.downstream.captioning.measure import captioning_result
    from wholegrain.downstream.pictures import TowerTokens
    from wholegrain.report.caption_page import caption_page

    assert isinstance(head, Captioner)
    settings, decoder = task.settings, task.decoder
    tokens = TowerTokens(model, dataset, task.needs, settings.training.precision)
    most = settings.data.max_tokens
    captions = captions_of(head, decoder, tokens, pictures.keys, settings.generation, most, show)
    blind = blind_caption(decoder, settings.generation, most)
    tuned = "" if model.image_frozen else f", the image tower tuned ({settings.training.tune})"
    search = "greedy" if settings.generation.beams == 1 else f"{settings.generation.beams} beams"
    own = "a small one of the training captions" if args.decoder is None else args.decoder.name
    said = (
        f"A frozen decoder ({own}) looks through gated cross-attention, trained for {settings.training.steps:,} steps of {settings.training.batch}{tuned}; "
        f"{search}."
    )
    result = captioning_result(pictures, captions, blind, said, args.seed)
    cards = _cards(dataset, pictures, captions, args.seed)
    return [result], caption_page(args.model, args.data.resolve().name, cards, blind, result)


def _cards(dataset: Dataset, pictures: Pictures, captions: list[str], seed: int) -> list[CaptionCard]:
    """Some pictures at random with their captions, wrong words marked."""
    from wholegrain.report.caption_page import SIDE, CaptionCard, marked
    from wholegrain.report.pictures import data_uri, seen_part, shown_size

    chosen = np.random.default_rng([seed, 5]).permutation(len(captions))[:SHOWN]
    cards = []
    for n in sorted(chosen.tolist()):
        example, text = pictures.examples[n], captions[n]
        pixels = dataset.pixels(example.key)
        height, width = pixels.shape[:2]
        size = shown_size((0.0, 0.0, float(width), float(height)), SIDE)
        parts = marked(text, pictures.wrong(n, text))
        cards.append(CaptionCard(data_uri(seen_part(pixels, side=SIDE)), *size, example.key, parts, pictures.left_out(n, text), example.captions))
    return cards
