"""``wholegrain enrich``: captions in roles and hard negatives for a data set, by stages that the runner shares out."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wholegrain.data.dataset import Dataset
from wholegrain.enrich.captions.captioner import EndpointCaptions
from wholegrain.enrich.captions.endpoint import Endpoint, model_of
from wholegrain.enrich.captions.local_captioner import LocalCaptions
from wholegrain.enrich.captions.prompting import load_prompts
from wholegrain.enrich.runner.run import Made, Options
from wholegrain.enrich.runner.run import enrich as run
from wholegrain.enrich.runner.stage import Stage
from wholegrain.errors import UserError
from wholegrain.files import aside, disk_errors, keepable
from wholegrain.suggest import closest

if TYPE_CHECKING:
    from wholegrain.text.words.tagging import Tagger

_COPIED = (
    "manifest.json",
    "index.parquet",
    "captions.parquet",
    "negatives.parquet",
    "twins.parquet",
    "hard_positives.parquet",
    "truths.parquet",
)
_WITH_MODEL = ("ce_clip", "released_ce_clip")
_URL = re.compile(r"(?:(?P<model>[^@]+)@)?(?P<url>https?://.+)")


@dataclass(frozen=True)
class Captioning:
    """How captions are asked for.

    Attributes:
        prompts: names, or a TOML file and names (``enrich.captions.prompting.load_prompts``).
        seed: of prompts with a temperature.
        endpoint: settings of endpoints; its url and model come from the names of the models.
        batch, device: of local models.
    """

    prompts: tuple[str, ...] = ()
    seed: int = 0
    endpoint: Endpoint = field(default_factory=lambda: Endpoint("", ""))
    batch: int = 16
    device: str = "auto"


@dataclass(frozen=True)
class EnrichRequest:
    """What to make.

    Attributes:
        negatives: kinds; empty is all kinds, ``None`` no negatives.
        per_kind: negatives of each kind for each caption, at most; with ``negclip`` of all kinds together.
        method: ``rules``, ``negclip``, ``random``, ``ce_clip:MODEL`` or ``released_ce_clip:MODEL``.
        hard_positives: whether to make them.
        captions: models.
        captioning: how they are asked.
        splits: empty is train for captions and all splits for the rest.
        seed: of all draws.
        tagger: a spaCy pipeline; empty is the built-in one.
    """

    negatives: tuple[str, ...] | None = None
    per_kind: int = 1
    method: str = "rules"
    hard_positives: bool = False
    captions: tuple[str, ...] = ()
    captioning: Captioning = field(default_factory=Captioning)
    splits: tuple[str, ...] = ()
    seed: int = 0
    tagger: str = ""


@dataclass(frozen=True)
class Enriched:
    """What was made.

    Attributes:
        folder: of the data set with the sidecars.
        tables: one entry a sidecar.
        page: the quality sheet, if it was asked for.
    """

    folder: Path
    tables: tuple[Made, ...]
    page: Path | None = None


def enrich(
    data: Path, request: EnrichRequest, out: Path | None = None, options: Options | None = None, *, audit: bool = False
) -> Enriched:
    """Makes the sidecars, captions first.

    Raises:
        UserError: see :func:`wholegrain.enrich.runner.run.enrich`.
    """
    texts = text_stages(request)
    written = caption_stages(request.captions, request.captioning) + [stage for stage in texts if stage.table == "captions"]
    random = request.negatives is not None and request.method == "random"  # needs to know how many there are
    folder = folder_for(data, out, {stage.table for stage in written + texts} - ({"negatives"} if random else set()))
    made: list[Made] = []
    for stages, usual in ((written, ("train",)), ([stage for stage in texts if stage.table != "captions"], ())):
        if stages:
            dataset = Dataset(folder)
            splits = request.splits or tuple(split for split in usual if split in dataset.splits)
            made += run(dataset, stages, keys_of(dataset, splits), options)
    return Enriched(folder, tuple(made), _sheet(folder) if audit else None)


def _sheet(folder: Path) -> Path:
    from wholegrain.workflows.quality import quality

    out = folder / "enrich"
    quality(Dataset(folder), out)
    return out / "quality.html"


def text_stages(request: EnrichRequest) -> list[Stage]:
    """The stages that make texts from captions: negated captions where their false sides are asked for, negatives, hard positives.

    Raises:
        UserError: a method or kind is not known.
    """
    from wholegrain.enrich.hard_positives import HardPositivesStage
    from wholegrain.enrich.negatives.negated_captions import NegatedCaptionsStage

    seed, tagger = request.seed, _tagger(request.tagger)
    stages: list[Stage] = []
    if request.negatives is not None:
        if request.method == "rules" and any(kind.startswith("negation") for kind in request.negatives):
            stages.append(NegatedCaptionsStage(seed=seed, tagger=tagger))
        stages.append(_negatives(request, seed, tagger))
    if request.hard_positives:
        stages.append(HardPositivesStage(seed=seed, tagger=tagger))
    return stages


def _negatives(request: EnrichRequest, seed: int, tagger: Tagger) -> Stage:
    from wholegrain.enrich.negatives.ce_clip import CeClipStage
    from wholegrain.enrich.negatives.negclip import NegClipStage
    from wholegrain.enrich.negatives.random_negatives import RandomStage
    from wholegrain.enrich.negatives.word_rules import NegativesStage

    method, _, model = request.method.partition(":")
    kinds: dict[str, Any] = {"kinds": request.negatives} if request.negatives else {}
    if method == "rules":
        return NegativesStage(per_kind=request.per_kind, **kinds, seed=seed, tagger=tagger)
    if method == "negclip":
        return NegClipStage(per_caption=request.per_kind, **kinds, seed=seed, tagger=tagger)
    if method == "random":
        return RandomStage(seed=request.seed)
    if method in _WITH_MODEL and model:
        variant = "corrected" if method == "ce_clip" else "released"
        return CeClipStage(model, variant, device=request.captioning.device, **kinds, seed=seed, tagger=tagger)
    if method in _WITH_MODEL:
        raise UserError(f"--method {method} needs a masked language model; name it, as in {method}:distilroberta-base.")
    raise UserError(f"There is no --method {request.method}; {closest(method, ('rules', 'negclip', 'random', *_WITH_MODEL))}")


def _tagger(pipeline: str) -> Tagger:
    """The built-in tagger unless a spaCy pipeline is named."""
    from wholegrain.text.words.tagging import BuiltinTagger

    if not pipeline:
        return BuiltinTagger()
    from wholegrain.text.words.tagging_spacy import SpacyTagger

    return SpacyTagger(pipeline)


def caption_stages(models: Sequence[str], how: Captioning) -> list[Stage]:
    """A stage for each model.

    Args:
        models: ``http://host/v1`` (the one model there), ``NAME@http://host/v1``, or a folder or Hugging Face name of a local model.
        how: prompts and settings.

    Raises:
        UserError: an endpoint has several models or none, or a prompt is not known.
    """
    prompts = load_prompts(how.prompts)
    stages: list[Stage] = []
    for name in models:
        found = _URL.fullmatch(name)
        if found is None:
            stages.append(LocalCaptions(name, prompts, how.seed, how.batch, how.device, how.endpoint.max_side))
            continue
        url = found["url"].rstrip("/")
        model = found["model"] or model_of(url, how.endpoint.key)
        stages.append(EndpointCaptions(replace(how.endpoint, url=url, model=model), prompts, how.seed))
    return stages


def folder_for(data: Path, out: Path | None, making: Collection[str] = ()) -> Path:
    """Where the sidecars go: beside the data, or into a folder that shows the same records and leaves the first one as it is.

    Such a folder has the manifest, the index and the sidecars but those that are to be made, and a link to the shards; it is a data set like any
    other.

    Raises:
        UserError: the other folder holds other data.
    """
    dataset = Dataset(data)
    if out is None or out.resolve() == data.resolve():
        return data
    if dataset.remote is not None:
        raise UserError(f"{data} lies far away; copy it to this machine first.")
    if (out / "manifest.json").exists():
        if Dataset(out).records_hash != dataset.records_hash:
            raise UserError(f"{out} holds other data than {data}; choose another folder.")
        return out
    keepable(out)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "shards").is_symlink():
            (out / "shards").symlink_to((data / "shards").resolve(), target_is_directory=True)
        for name in reversed(_COPIED):  # the manifest last: without it, the folder is no data set
            if (data / name).exists() and name.partition(".")[0] not in making:
                with aside(out / name) as part:
                    part.write_bytes((data / name).read_bytes())
    return out


def keys_of(dataset: Dataset, splits: Sequence[str]) -> list[str]:
    """The keys of some splits; of all where none is named."""
    return [key for split in splits or dataset.splits for key in dataset.keys(split)]
