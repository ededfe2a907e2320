"""The comparison on photographs: frozen towers whose features are made once, the last layer of the text tower and the heads tuned by each method.

A folder of research data (``flickr8k/captions.csv``, ``coco``, ``sugarcrepe``, ``weights``) is prepared, enriched, trained on and tested on, in one
call that goes on where it was interrupted. Results are kept without names of files or captions: items and pictures are numbered. ::

    data/, one/, choose/     all captions; one caption a photo; a part of ``val`` by which the grain's weight is chosen
    swaps/, random/          the same photos with other negatives: NegCLIP's swaps, captions of other photos
    base/                    plain CLIP: heads on the frozen towers, from which all methods start
    METHOD-SEED/steps-N/     runs, with their results in test/
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.negatives import beside
from results.frozen_once import frozen_once
from wholegrain.data.dataset import Dataset
from wholegrain.data.prepare import PrepareOptions, prepare
from wholegrain.data.record import GeneratedCaption, HardPositive, Negative, generated_id
from wholegrain.data.sidecars import write_sidecar
from wholegrain.data.sources import SourceOptions
from wholegrain.enrich.hard_positives import HardPositivesStage
from wholegrain.enrich.negatives.negclip import NegClipStage
from wholegrain.enrich.negatives.random_negatives import RandomStage
from wholegrain.enrich.negatives.word_rules import NegativesStage
from wholegrain.enrich.runner.stage import Failure, Stage
from wholegrain.evaluation.benchmarks.run import parse_benchmark, run_benchmarks
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.dense.run import DenseOptions, dense
from wholegrain.evaluation.result import TaskResult, save_results
from wholegrain.evaluation.scores.whole_and_grain import WholeAndGrain
from wholegrain.evaluation.suite import EvaluationOptions, evaluate
from wholegrain.evaluation.tasks.grain_weight import choose_grain
from wholegrain.files import write_json, write_text
from wholegrain.objectives.recipe import load_recipe, to_table, to_toml
from wholegrain.objectives.schema import Recipe
from wholegrain.text.words.phrases import NounPhrases
from wholegrain.towers.io import load_model
from wholegrain.towers.model import Model
from wholegrain.training.options import TrainOptions
from wholegrain.training.start import load_inputs
from wholegrain.workflows.runs import train_once

TESTED, CHOOSING = 1500, 200
"""False texts of a kind of test; photos of ``val`` by which the grain's weight is chosen."""
SHARED = (
    "--model.tune_text=last:1", "--data.crop_scale=[1.0, 1.0]", "--optimiser.lr=1e-3",
    "--optimiser.layer_decay=0.2", "--optimiser.warmup_steps=4", "--optimiser.weight_decay=0.05", "--optimiser.precision=fp32",
)  # fmt: skip
HEADS = (
    "--model.tune_text=none", "--data.crop_scale=[1.0, 1.0]", '--data.captions=[{ roles = ["-phrase"], count = 2 }]', "--optimiser.lr=2e-3",
    "--optimiser.warmup_steps=20", "--optimiser.precision=fp32",
)  # fmt: skip
NEGATIVES = ("--data.negatives.count=2",)
CE_CLIP = (*NEGATIVES, "--terms.imc.weight=1.0", "--terms.cmr.weight=1.5")
HOLISTIC = (
    "--model.branches=2", '--terms.many_to_many.settings={assignment="hungarian"}', '--data.captions=[{ roles = ["-phrase"], count = 2 }]',
)  # fmt: skip
METHODS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "clip": ("data", "clip", ()),
    "ce_clip": ("data", "ce_clip", CE_CLIP),
    "wholegrain": ("data", "ce_clip", CE_CLIP),
    "sparc": ("data", "sparc", ("--terms.clip.weight=1.0", "--terms.sparc.weight=1.0")),
    "holistic": ("data", "holistic", HOLISTIC),
    "negclip": ("data", "negclip", NEGATIVES),
    "clip_one_caption": ("one", "clip", ()),
}
"""Name -> (data, packaged recipe, overrides). Weights of the terms are those of the scenes' recipes."""
CONTROLS: dict[str, tuple[str, str, tuple[str, ...]]] = {"ce_clip_swaps": ("swaps", "ce_clip", CE_CLIP), "ce_clip_random": ("random", "ce_clip", CE_CLIP)}
PHRASES = {"loss": "text_conditioned", "weight": 1.0, "roles": ["phrase"]}
"""What Wholegrain has beside CE-CLIP's losses: each noun phrase's own pooling of the patches, contrasted with other photos."""
WITH_GRAIN = ("clip", "ce_clip", "wholegrain")
TAGGER = "the built-in tagger"
COMMON = 0.02
"""Phrases that a larger share of the photos have are no captions to contrast: "a man" is true of a third of them."""
PAIR = """[image]
timm = "mobilenetv2_100"
weights = "mobilenet_v2_imagenet.safetensors"
kwargs = { pad_type = "same" }
tune = "none"

[text]
hf = "all-MiniLM-L6-v2"
pool = "mean"
tune = "none"

[shared]
width = 256

[preprocess]
size = 160
resize = "squash"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
"""


@dataclass(frozen=True)
class Photographs:
    """The evaluation in a folder.

    Attributes:
        out: of everything that is made.
        source: of the research data.
        steps, batch: of every run; a batch in photos.
        heads_steps, heads_batch: of the base.
    """

    out: Path
    source: Path
    steps: int = 160
    batch: int = 128
    heads_steps: int = 60
    heads_batch: int = 1024

    def run(self, seeds: Sequence[int], methods: Sequence[str]) -> None:
        """All runs, seed by seed, and their results."""
        self.prepared()
        known = METHODS | CONTROLS
        with frozen_once(load_model(str(self.pair)), self.out / "frozen"):
            base = self.base()
            self.measured("start", base, self.out / "start" / "test")
            for seed in seeds:
                for method in methods:
                    model, folder = self.trained(method, *known[method], seed)
                    self.measured(method, model, folder / "test")

    @property
    def pair(self) -> Path:
        """The file of the two towers."""
        return self.out / "pair.toml"

    def prepared(self) -> None:
        """The data sets with their sidecars."""
        self.out.mkdir(parents=True, exist_ok=True)
        for name, text in (("pair.toml", PAIR),):
            write_text(self.out / name, text)
        for weights in (self.source / "weights").iterdir():
            link = self.out / weights.name
            if not link.exists():
                link.symlink_to(weights.resolve())
        photos = self.source / "flickr8k"
        prepare(str(photos / "captions.csv"), self.out / "data")
        options = PrepareOptions(SourceOptions(image_root=photos.resolve()))
        for name, rows in some_rows(photos / "captions.csv").items():
            table = self.out / f"{name}.csv"
            if not table.exists():
                write_text(table, rows)
            prepare(str(table), self.out / name, options=options)
        data = self.out / "data"
        put(data, NegativesStage(), ("train", "val", "test"))
        put_phrases(data)
        put(beside(data, self.out / "swaps"), NegClipStage(), ("train",))
        put(beside(data, self.out / "random"), RandomStage(like=str(data)), ("train",))
        rules = beside(data, self.out / "test-rules")
        put(rules, HardPositivesStage(), ("test",), TESTED)
        put(rules, NegativesStage(), ("test",), TESTED)
        put(beside(data, self.out / "test-swaps"), NegClipStage(), ("test",), TESTED)

    def base(self) -> Model:
        """Plain CLIP, heads alone."""
        words = (*HEADS, f"--optimiser.steps={self.heads_steps}", f"--optimiser.batch={self.heads_batch}", "--seed=0")
        recipe, dataset, start = load_inputs("clip", self.out / "data", str(self.pair), words)
        return train_once(recipe, dataset, start, self.options(self.out / "base"))

    def options(self, folder: Path) -> TrainOptions:
        """Of a run, which says how it came about."""
        command = shlex.join(["results", "photographs", self.out.name, "--data", "research"])
        return TrainOptions(folder, origin={"command": command, "data": str(self.out / "data")}, cache=self.out / "features")

    def trained(self, method: str, data: str, packaged: str, overrides: Sequence[str], seed: int) -> tuple[Model, Path]:
        """A run's model, and its folder."""
        folder = self.out / f"{method}-{seed}" / f"steps-{self.steps}"
        path = self.out / "recipes" / f"{method}.toml"
        path.parent.mkdir(exist_ok=True)
        write_text(path, to_toml(recipe_of(method, packaged, overrides)))
        words = (f"--optimiser.steps={self.steps}", f"--optimiser.batch={self.batch}", f"--seed={seed}")
        recipe, dataset, start = load_inputs(str(path), self.out / data, str(self.out / "base"), words)
        print(f"{method}, seed {seed}", flush=True)
        return train_once(recipe, dataset, start, self.options(folder)), folder

    def measured(self, method: str, model: Model, folder: Path) -> None:
        """Everything that is asked of a model, kept once."""
        if (folder / "results.json").exists():
            return
        results = self.asked(model)
        results += run_benchmarks(model, [parse_benchmark(f"sugarcrepe={self.source / 'sugarcrepe'}")], progress=False)
        results += dense(model, self.source / "coco", DenseOptions(tasks=("pointing",), read_outs=("pooled", "token")))[0]
        facts: dict[str, object] = {}
        if method in WITH_GRAIN and model.score is None:
            found = choose_grain(model, Dataset(self.out / "choose"), weights=(0.0, 0.25, 0.5, 1.0), temperatures=(0.05, 0.1))
            facts = {"weight": found.weight, "temperature": found.temperature, "tried": [[*key, value] for key, value in found.tried.items()]}
            by_grain = self.asked(WholeAndGrain(model, found.weight, found.temperature))
            results += [replace(result, task=f"{result.task}_grain") for result in by_grain]
        save_results([numbered(result) for result in results], folder, {"grain": facts})

    def asked(self, model: EvaluatedModel) -> list[TaskResult]:
        """Retrieval, false texts of two origins, true rewordings."""
        made, options = [], EvaluationOptions(progress=False)
        for origin, tasks in (("rules", ("retrieval", "hard_positives", "negatives")), ("swaps", ("negatives",))):
            found = evaluate(model, Dataset(self.out / f"test-{origin}"), options, tasks=tasks)
            made += [replace(result, task=f"negatives_{origin}") if result.task == "negatives" else result for result in found]
        return made


def recipe_of(method: str, packaged: str, overrides: Sequence[str]) -> Recipe:
    """A method's recipe; Wholegrain's has one term and one draw more."""
    recipe = load_recipe(packaged, (*SHARED, *overrides))
    if method != "wholegrain":
        return recipe
    table = json.loads(json.dumps(to_table(recipe)))
    for term in table["terms"]:
        term["roles"] = ["-phrase"]
    table["terms"].append(PHRASES)
    table["data"]["captions"].append({"roles": ["phrase"], "count": 2, "optional": True})
    return load_recipe({**table, "name": method})


def some_rows(table: Path) -> dict[str, str]:
    """``one``: the first caption of each photo of ``train``; ``choose``: all captions of some photos of ``val``; as CSV."""
    with table.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    first: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["split"] == "train":
            first.setdefault(row["filepath"], row)
    val = list(dict.fromkeys(row["filepath"] for row in rows if row["split"] == "val"))
    few = set(val[:: max(1, len(val) // CHOOSING)][:CHOOSING])
    return {"one": _csv(list(first.values())), "choose": _csv([row for row in rows if row["filepath"] in few])}


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["filepath", "caption", "split"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def put(folder: Path, stage: Stage, splits: Sequence[str], most: int = 0) -> None:
    """A stage's rows of some splits as a sidecar; a sample of ``most`` of them, if that is given."""
    if (folder / f"{stage.table}.parquet").exists():
        return
    dataset = Dataset(folder)
    keys = [key for split in splits for key in dataset.keys(split)]
    stage.fit(dataset, keys)
    made = stage.rows([dataset.record(key) for key in keys], [None] * len(keys))
    rows = [row for rows in made if not isinstance(rows, Failure) for row in rows if isinstance(row, Negative | HardPositive)]
    if most and most < len(rows):
        rows = [rows[n] for n in sorted(np.random.default_rng(0).permutation(len(rows))[:most].tolist())]
    write_sidecar(folder, stage.table, rows)
    print(f"{folder.name}: {len(rows):,} {stage.table}", flush=True)


def put_phrases(folder: Path) -> None:
    """The noun phrases of the training captions, as captions of the role ``phrase``; none that is common."""
    if (folder / "captions.parquet").exists():
        return
    dataset, find = Dataset(folder), NounPhrases()
    said = {
        record.key: dict.fromkeys(phrase.lower() for each in find([c.text for c in record.captions]) for phrase in each)
        for record in dataset.records("train")
    }
    photos = Counter(phrase for phrases in said.values() for phrase in phrases)
    rows = [
        GeneratedCaption(key, generated_id(phrase, "phrase", TAGGER), "phrase", phrase, TAGGER, TAGGER, "noun phrases", "1")
        for key, phrases in said.items()
        for phrase in phrases
        if photos[phrase] <= COMMON * len(said)
    ]
    write_sidecar(folder, "captions", rows)
    write_json(folder / "phrases.json", {"photos": len(said), "phrases": len(rows), "distinct": len(photos)})


def numbered(result: TaskResult) -> TaskResult:
    """The result with numbers in place of the names of items and pictures, and nothing else that is text but the groups."""
    items = result.items
    places: dict[str, str] = {}
    clusters = [places.setdefault(name, f"p{len(places)}") for name in items["cluster"].to_pylist()]
    kept = {name: items[name] for name in items.column_names if name in ("group", "overall") or pa.types.is_floating(items[name].type)}
    own = {"item": [f"i{n}" for n in range(len(items))], "cluster": clusters}
    return replace(result, items=pa.table({**own, **kept}))
