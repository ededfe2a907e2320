"""What is recorded: commands, by part; what each writes is in a folder that has the last word of its item's name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "src" / "wholegrain" / "recipes"
TINY = "small:image_size=16,patch=8,image_width=16,image_layers=1,heads=2,text_width=16,text_layers=1,width=8"
VIT = "../sources/vit"
STEPS = "12"


@dataclass(frozen=True)
class Item:
    """Commands, one after the other, in a folder of their own, and what they need from other items.

    Attributes:
        name: its part, and more, with slashes.
        commands: the arguments of each; they write into :attr:`out`.
        needs: names of items whose output they read.
        processes: of each command.
        stop_at: the first command is asked to stop (SIGTERM) once its run has so many steps; 0 lets it come to its end.
        like: an item whose output must be the same as this one's; only what both have is recorded.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    needs: tuple[str, ...] = ()
    processes: int = 1
    stop_at: int = 0
    like: str = ""

    @property
    def folder(self) -> str:
        return self.name.replace("/", "+")

    @property
    def out(self) -> str:
        return self.name.rpartition("/")[2]


def at(name: str) -> str:
    """Where a command finds what another item wrote."""
    return f"../{name.replace('/', '+')}/{name.rpartition('/')[2]}"


SCENES, PHOTOS, RICH = "data/scenes", "data/photos", "sidecars/rich"


def data() -> Iterator[Item]:
    few = ["--train", "32", "--val", "8", "--test", "12", "--crowded", "4", "--twins", "4", "--train-twins", "8"]
    yield Item(SCENES, (("scenes", "scenes", *few),))
    yield Item("data/scenes_b", (("scenes", "scenes_b", *few, "--glyphs", "B", "--size", "96", "--seed", "1"),))
    photos = ("--caption-column", "caption", "--role-column", "role", "--split-column", "split", "--label-column", "label")
    yield Item(PHOTOS, (("prepare", "../sources/table/photos.csv", "photos", *photos, "--workers", "1"),))
    small = ("--shard-mib", "1", "--workers", "2")
    for name, source in {"lines": "lines/photos.jsonl", "classes": "classes", "tar": "photos-{000000..000000}.tar"}.items():
        yield Item(f"data/{name}", (("prepare", f"../sources/{source}", name, *small),))


KINDS = {
    "words": ("object", "attribute"),
    "grammar": ("relation", "action", "count"),
    "swaps": ("swap_object", "swap_attribute"),
    "negation": ("negation",),
}


def sidecars() -> Iterator[Item]:
    def enriched(name: str, *words: str, data: str = PHOTOS) -> Item:
        out = name.rpartition("/")[2]
        return Item(name, (("enrich", at(data), "--out", out, "--workers", "1", *words),), (data,))

    every = ("--splits", "train", "val", "test", "--negatives")
    yield enriched(RICH, "--hard-positives", "--audit", "--negatives")
    for name, kinds in KINDS.items():
        yield enriched(f"sidecars/{name}", *every, *kinds, "--per-kind", "2", "--seed", "1")
    yield enriched("sidecars/negclip", "--negatives", "--method", "negclip", "--per-kind", "2")
    yield Item("sidecars/random", (("enrich", at(RICH), "--out", "random", "--negatives", "--method", "random", "--replace"),), (RICH,))
    yield enriched("sidecars/scenes", "--hard-positives", "--negatives", "--replace", data=SCENES)
    two = enriched("sidecars/two_workers", "--hard-positives", "--negatives")
    yield Item(two.name, (tuple("2" if word == "1" else word for word in two.commands[0]),), two.needs)


NEEDED = {
    "llip": ("--model.head_settings.mixtures", "3"),
    "mgca": ("--model.head_settings.prototypes", "5", "--terms.mgca_prototypes.settings.frozen_steps", "2"),
    "cosmos": ("--data.views", "[{count=1, crop_scale=[0.4, 1.0]}, {count=1, crop_scale=[0.05, 0.4]}]"),
    "holistic_mlp": ("--model.head_settings.branch_blocks", "1"),
    "tripletclip": ("--data.twin_share", "0.3"),
}
"""What recipes must be told to train a model as small as this one."""
WITH_TWINS = ("tripletclip",)
"""Recipes whose training pictures must have twins: scenes have, and these photos have not."""


def recipes() -> list[str]:
    """Names of all packaged recipes of training, from their files; those below ``downstream/`` are of heads."""
    names = (path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.toml"))
    return sorted(name for name in names if not name.startswith("downstream/"))


def trained(name: str, recipe: str, *words: str, data: tuple[str, ...] = (), processes: int = 1) -> Item:
    """A run of twelve steps; recipes of scenes and of twins see scenes, all others the enriched photos."""
    data = data or (SCENES if recipe.startswith("scenes/") or recipe in WITH_TWINS else RICH,)
    needs = tuple(one.partition(":")[0] for one in data)
    places = [at(name) + one[len(name) :] for name, one in zip(needs, data, strict=True)]
    few = ("--steps", STEPS, "--batch", "8", "--lr", "1e-3", "--optimiser.warmup_steps", "2", "--optimiser.precision", "fp32")
    quick = ("--device", "cpu", "--workers", "0", "--seed", "0", "--quiet", "--saving.every", "100")
    last = (*few, *quick, *NEEDED.get(recipe, ()), *words)
    model = () if "--model" in words else ("--model", TINY)
    out = name.rpartition("/")[2]
    return Item(name, (("train", recipe, "--data", *places, "--out", out, *model, *last),), needs, processes)


SETTINGS = {
    "bf16": ("negclip", "--optimiser.precision", "bf16"),
    "micro_batch": ("wholegrain", "--optimiser.micro_batch", "3"),
    "micro_batch_sigmoid": ("siglip", "--optimiser.micro_batch", "3"),
    "recompute": ("ce_clip", "--optimiser.recompute", "true"),
    "lora": ("negclip", "--model.lora.rank", "2", "--model", VIT),
    "last_stage": ("clip", "--model.tune_image", "last:1", "--model.tune_text", "none", "--data.crop_scale", "[1.0, 1.0]"),
    "layer_decay": ("sparc", "--optimiser.layer_decay", "0.5", "--optimiser.head_lr", "3"),
    "patch_dropout": ("clip", "--model.patch_dropout", "0.5", "--model", VIT),
    "class_tokens": ("holistic", "--model", VIT),
    "split_blocks": ("holistic_mlp", "--model", VIT, "--optimiser.micro_batch", "3"),
    "vit": ("wholegrain", "--model", VIT),
    "vit_sparc": ("sparc", "--model", VIT, "--optimiser.recompute", "true"),
    "vit_flair": ("flair", "--model", VIT),
    "vit_last_stage": ("negclip", "--model", VIT, "--model.tune_image", "last:1", "--model.tune_text", "last:1"),
    "loader": ("ce_clip", "--workers", "2", "--data.shuffle_window", "1"),
    "epochs": ("clip", "--steps", "0", "--epochs", "1.8", "--optimiser.schedule", "constant", "--saving.evaluate_every", "3"),
    "doses": ("ce_clip", "--data.negatives.dose", "0.5", "--data.negatives.count", "2"),
    "frozen_teacher": ("degla", "--teacher.kind", "frozen"),
    "imc_released": ("ce_clip", "--terms.imc.settings.variant", "released", "--terms.cmr.settings.margin", "max"),
    "imc_cross_modal": ("ce_clip", "--terms.imc.settings.variant", "cross_modal", "--terms.cmr.settings.margin", "fixed"),
    "filip_sparc": ("filip", "--terms.filip.settings.variant", "sparc"),
    "gloria_sparc": ("gloria", "--terms.gloria.settings.variant", "sparc"),
    "fusion_cosine": ("ce_fusion", "--terms.imc.settings.scores", "cosine", "--terms.cmr.settings.scores", "cosine"),
    "llip_softmax": ("llip", "--terms.llip.settings.kind", "softmax"),
    "dreamlip_released": ("dreamlip", "--terms.dreamlip.settings.patches_of", "released"),
    "context": ("clip", "--model", f"{TINY},context=48", "--seed", "3"),
    "base": ("scenes/wholegrain", "--model", "base"),
    "twins": ("scenes/clip", "--data.twin_share", "0.25"),
}
"""Runs that differ from a recipe in what the name says."""


def weights() -> Iterator[Item]:
    for recipe in recipes():
        for processes in (1, 2):
            yield trained(f"weights/{recipe}/{processes}", recipe, processes=processes)
    for name, (recipe, *words) in SETTINGS.items():
        yield trained(f"weights/settings/{name}", recipe, *words)
    for name, words in {"mixture": (), "per_source": ("--data.per_source", "true")}.items():
        yield trained(f"weights/settings/{name}", "ce_clip", *words, data=(f"{RICH}:2", f"{SCENES}:1"))
    yield trained("weights/settings/shard_2", "ce_clip", "--optimiser.shard", "true", processes=2)
    for name in ("micro_batch", "loader"):
        yield trained(f"weights/settings/{name}_2", *SETTINGS[name], processes=2)


def resume() -> Iterator[Item]:
    """A run that is stopped and goes on is like the whole one, whenever it was stopped."""
    end = ("--batch", "24", "--saving.evaluate_every", STEPS)  # an evaluation that is due where a run is stopped is left out
    for recipe in ("wholegrain", "cosmos", "mgca"):
        whole = trained(f"resume/{recipe}_whole", recipe, *end)
        yield whole
        stopped = trained(f"resume/{recipe}", recipe, *end)
        more = ("train", "--resume", stopped.out, "--device", "cpu", "--workers", "0", "--quiet")
        yield replace(stopped, commands=(*stopped.commands, more), needs=(*stopped.needs, whole.name), stop_at=6, like=whole.name)


MEASURED = ("clip", "siglip", "sparc", "holistic", "filip", "flair", "fusion")
"""Recipes of models that are measured: each has another head, or another score."""


def models() -> Iterator[Item]:
    """Trained models that other parts read."""
    for recipe in MEASURED:
        yield trained(f"models/{recipe}", recipe)
    for recipe in ("clip", "siglip", "holistic", "sparc"):
        yield trained(f"models/vit_{recipe}", recipe, "--model", VIT)


def results() -> Iterator[Item]:
    def measured(name: str, model: str, *words: str, data: str = RICH) -> Item:
        asked = ("evaluate", at(model), "--data", at(data), "--out", name, "--device", "cpu", *words)
        return Item(f"results/{name}", (asked,), (model, data))

    for recipe in MEASURED:
        yield measured(recipe, f"models/{recipe}")
        dense = ("dense", at(f"models/{recipe}"), "../sources/dense", "--out", f"dense_{recipe}", "--device", "cpu")
        yield Item(f"results/dense_{recipe}", (dense,), (f"models/{recipe}",))
    for recipe in ("clip", "holistic", "vit_holistic"):
        yield measured(f"scenes_{recipe}", f"models/{recipe}", data=SCENES)
    yield measured("shortlist", "models/fusion", "--shortlist", "8", "--suite", "retrieval")
    yield measured("one_caption", "models/clip", "--one-caption", "--owner-only", "--suite", "retrieval", "--seed", "1")
    both = (at("results/clip"), at("results/sparc"), "--groups", "--everything", "--out", "compared.json")
    yield Item("results/compared.json", (("compare", *both),), ("results/clip", "results/sparc"))


def exports() -> Iterator[Item]:
    def exported(name: str, model: str, *words: str) -> Item:
        return Item(f"exports/{name}", (("export", at(model), name, *words),), (model,))

    for to in ("open_clip", "transformers", "onnx", "wholegrain"):
        yield exported(to, "models/vit_clip", "--to", to)
        if to != "transformers":  # which has no place for its bias
            yield exported(f"{to}_siglip", "models/vit_siglip", "--to", to)
    for to in ("open_clip", "transformers"):
        yield exported(f"{to}_approximate", "models/vit_holistic", "--to", to, "--approximate")
    for to in ("onnx", "wholegrain"):
        yield exported(f"{to}_holistic", "models/vit_holistic", "--to", to)
        yield exported(f"{to}_sparc", "models/vit_sparc", "--to", to)
    mixed = ("interpolate", VIT, at("models/vit_clip"), "interpolated", "--alpha", "0.3")
    yield Item("exports/interpolated", (mixed,), ("models/vit_clip",))


PARTS = {part.__name__: part for part in (data, sidecars, weights, resume, results, exports)}


def chosen(only: Sequence[str], name: str) -> bool:
    """Whether the name of an item is that of a part, or of items, that were asked for."""
    return any(f"{name}/".startswith(f"{one.rstrip('/')}/") for one in only)


def items(only: Sequence[str]) -> list[Item]:
    """The items that are asked for and those that they need, every one behind what it needs."""
    known = {item.name: item for part in (*PARTS.values(), models) for item in part()}
    ordered: dict[str, Item] = {}

    def add(item: Item) -> None:
        for name in item.needs:
            add(known[name])
        ordered.setdefault(item.name, item)

    for item in known.values():
        if chosen(only, item.name):
            add(item)
    return list(ordered.values())
