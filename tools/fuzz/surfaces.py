"""What is damaged, and what is then asked of it: one function a surface, ``(rng, folder)``, in an empty folder."""

from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tomli_w
from PIL import Image

from fuzz import mutations
from fuzz.watch import command
from wholegrain.data.dataset import Dataset
from wholegrain.data.prepare import PrepareOptions, prepare
from wholegrain.data.record import HardPositive, caption_id
from wholegrain.data.scan import look_at
from wholegrain.data.sidecars import write_sidecar
from wholegrain.data.sources.sample import RawSample
from wholegrain.errors import UserError
from wholegrain.objectives.recipe import load_recipe, recipe_names, to_table

QUIET = PrepareOptions(progress=False, workers=1, max_broken=0.99)
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SIZES = {"image_size": 16, "patch": 8, "image_width": 16, "image_layers": 1, "heads": 2, "text_width": 16, "text_layers": 1}
CAPTIONS = ("a red cup left of a blue sun", "two dogs", "a man who holds a ball, not a stick", "snow")


@cache
def base() -> Path:
    """A folder that lives as long as the process: photos, a prepared set, a model, a run cut short, results."""
    place = Path(tempfile.mkdtemp(prefix="fuzz-base-"))
    (place / "photos").mkdir()
    rows = ["image,caption,split"]
    for number in range(8):
        image = picture(number, KINDS[number % len(KINDS)])
        (place / "photos" / f"{number}.jpg").write_bytes(image)
        split = ("train", "train", "val", "test")[number % 4]
        rows += [f'{number}.jpg,"{CAPTIONS[number % 4]}",{split}', f'{number}.jpg,"photo {number}",{split}']
    (place / "photos" / "photos.csv").write_text("\n".join(rows) + "\n")
    prepare(place / "photos" / "photos.csv", place / "data", options=QUIET)
    _sidecars(place / "data")
    _model_and_run(place)
    return place


def picture(number: int, kind: str = "PNG", size: tuple[int, int] = (12, 10)) -> bytes:
    """A small picture of noise."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def _sidecars(folder: Path) -> None:
    from wholegrain.data.record import GeneratedCaption, Negative, Twin

    dataset = Dataset(folder)
    keys = [key for split in dataset.splits for key in dataset.keys(split)]
    own = [(key, dataset.original(key).captions[0]) for key in keys]
    write_sidecar(folder, "negatives", [Negative(key, c.id, "swap_object", f"not {c.text}") for key, c in own])
    write_sidecar(folder, "twins", [Twin("t0", "swap", (keys[0], keys[1]), ("one", "two"))])
    write_sidecar(folder, "hard_positives", [HardPositive("h0", "swap", keys[0], ("yes", "also yes"), "no")])
    write_sidecar(folder, "truths", [(own[0][1].id, keys[1])])
    made = [GeneratedCaption(key, caption_id(f"made {n}"), "detail", f"made {n}", "m", "m", "p", "1", 0) for n, key in enumerate(keys)]
    write_sidecar(folder, "captions", made)


def _model_and_run(place: Path) -> None:
    from wholegrain.evaluation.result import save_results
    from wholegrain.evaluation.suite import EvaluationOptions, evaluate
    from wholegrain.text.trained import train_tokenizer
    from wholegrain.towers.io import save_model
    from wholegrain.towers.sources.small import SmallConfig, small_model
    from wholegrain.training.trainer import TrainOptions, train

    model = small_model(SmallConfig(**SIZES, context=12, width=8), train_tokenizer(CAPTIONS, 100, 12))
    save_model(model, place / "model")
    dataset = Dataset(place / "data")
    quick = ("--optimiser.batch=4", "--optimiser.steps=3", "--optimiser.precision=fp32", "--saving.every=1", "--saving.keep=2")
    recipe = load_recipe("clip", quick)
    origin = {"data": str(place / "data"), "model": str(place / "model"), "command": "wholegrain train clip"}
    for name, stop in (("cut", 2), ("run", 9)):
        count: list[int] = []
        train(
            recipe,
            dataset,
            model,
            TrainOptions(place / name, origin=origin, quiet=True),
            on_step=lambda _, stop=stop, count=count: (count.append(1), len(count) >= stop)[1],
        )
    for name in ("a", "b"):
        results = evaluate(model, dataset, EvaluationOptions(progress=False), split="test", tasks=("retrieval", "composition"), left_out={})
        save_results(results, place / name, {"dataset": "data", "split": "test", "model": name})


def _copied(name: str, folder: Path) -> Path:
    shutil.copytree(base() / name, folder / name, symlinks=True)
    return folder / name


def _damage(rng: random.Random, path: Path) -> None:
    """One file: odd things in its place, changed values where it has a structure, changed bytes."""
    kind = rng.random()
    if kind < 0.15:
        mutations.put_odd(rng, path)
    elif path.suffix == ".json" and kind < 0.7:
        path.write_bytes(mutations.json_text(mutations.value_of(rng, json.loads(path.read_bytes()))))
    elif path.suffix == ".parquet" and kind < 0.7:
        pq.write_table(mutations.table_of(rng, pq.read_table(path)), path)
    else:
        path.write_bytes(mutations.bytes_of(rng, path.read_bytes()))


def _damage_some(rng: random.Random, folder: Path, pattern: str = "*") -> None:
    files = sorted(path for path in folder.rglob(pattern) if path.is_file())
    for path in rng.sample(files, min(len(files), rng.choice((1, 1, 1, 2)))):
        _damage(rng, path)


def _is_text(value: object) -> str:
    return str(value).replace(mutations.DEEP, "deep")


# ---- the surfaces -----------------------------------------------------------------------------------------------------------


def tables(rng: random.Random, folder: Path) -> None:
    """CSV, TSV, JSON lines and parquet, and the files that they name, given to ``prepare``."""
    photos, kind = _copied("photos", folder), rng.choice(("csv", "tsv", "jsonl", "parquet"))
    rows = [
        {"image": f"{n}.jpg", "caption": CAPTIONS[n % 4], "split": ("train", "test")[n % 2], "label": "cup", "role": "web"} for n in range(6)
    ]
    source = photos / f"t.{kind}"
    if kind == "parquet":
        import pyarrow as pa

        pq.write_table(mutations.table_of(rng, pa.Table.from_pylist(rows)), source)
    else:
        rows = mutations.value_of(rng, rows) if rng.random() < 0.7 else rows
        rows = rows if isinstance(rows, list) else [rows]
        if kind == "jsonl":
            data = b"\n".join(mutations.json_text(row) for row in rows)
        else:
            mark = "," if kind == "csv" else "\t"
            lines = [mark.join(("image", "caption", "split", "label", "role"))]
            lines += [mark.join(map(_is_text, row.values() if isinstance(row, dict) else [row])) for row in rows]
            data = "\n".join(lines).encode("utf-8", "surrogatepass")
        source.write_bytes(mutations.bytes_of(rng, data) if rng.random() < 0.5 else data)
    if rng.random() < 0.3:
        mutations.put_odd(rng, photos / f"{rng.randrange(6)}.jpg")
    if rng.random() < 0.05:
        mutations.put_odd(rng, source)
    command("prepare", source, folder / "out", "--workers", "1", "--max-broken", "0.9")
    _walk(Dataset(folder / "out"))


def tars(rng: random.Random, folder: Path) -> None:
    """WebDataset shards with damaged headers, given to ``prepare``."""
    file = io.BytesIO()
    mode = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=file, mode=rng.choice(("w", "w", "w", "w:gz")), format=mode) as tar:
        for number in range(4):
            stem = "n" * 200 + str(number) if mode != tarfile.USTAR_FORMAT and rng.random() < 0.3 else f"{number}"
            described = json.dumps({"caption": CAPTIONS[number], "split": "train"})
            for name, data in ((f"{stem}.jpg", picture(number)), (f"{stem}.json", described.encode()), (f"{stem}.txt", b"a text")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                if rng.random() < 0.1:
                    info.type = rng.choice((tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, b"S", b"x", b"L"))
                    info.linkname = rng.choice(("/etc/passwd", "../x", name))
                if mode == tarfile.PAX_FORMAT and rng.random() < 0.2:
                    odd = rng.choice(("-1", "99999999999999", "x", "1e3", ""))
                    info.pax_headers = {rng.choice(("size", "path", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major")): odd}
                tar.addfile(info, io.BytesIO(data))
    data = bytearray(file.getvalue())
    for _ in range(rng.choice((0, 1, 1, 2))):
        _damage_header(rng, data)
    source = folder / "shard.tar"
    source.write_bytes(mutations.bytes_of(rng, bytes(data)) if rng.random() < 0.4 else bytes(data))
    command("prepare", source, folder / "out", "--workers", "1", "--max-broken", "0.9")
    _walk(Dataset(folder / "out"))


def _damage_header(rng: random.Random, data: bytearray) -> None:
    """A field of a header gets a new value, and the checksum that fits it."""
    start = rng.randrange(max(1, len(data) // 512)) * 512
    header = bytearray(data[start : start + 512].ljust(512, b"\0"))
    field = rng.choice(((0, 100), (100, 8), (124, 12), (124, 12), (124, 12), (156, 1), (157, 100), (345, 155), (386, 97), (482, 13)))
    values = (
        b"77777777777",
        b"\x80" + b"\xff" * (field[1] - 1),
        b"\xff" * field[1],
        b"\0" * field[1],
        b"-0000000001",
        b"S",
        b"K",
        b"L",
        b"x",
        b"g",
        rng.randbytes(field[1]),
        b"/" * field[1],
    )
    header[field[0] : field[0] + field[1]] = rng.choice(values)[: field[1]].ljust(field[1], b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[start : start + 512] = header


def pictures(rng: random.Random, folder: Path) -> None:
    """Pictures in all formats, damaged, and such as say that they are huge."""
    image = picture(rng.randrange(20), rng.choice((*KINDS, "PPM", "ICO", "PCX", "TGA", "SGI", "EPS")), (rng.randint(1, 40), rng.randint(1, 40)))
    for _ in range(rng.choice((0, 1, 1, 3))):
        image = mutations.bytes_of(rng, image)
    row = look_at(RawSample(image, (("a", "web", ""),), "train", where="here"))
    if "broken" in row:
        raise UserError(f"here: {row['broken']}")


def data_folders(rng: random.Random, folder: Path) -> None:
    """A prepared set with damaged files: opened, inspected, walked through, now and then trained on."""
    data = _copied("data", folder)
    _damage_some(rng, data)
    if rng.random() < 0.1:
        command("inspect", data, "--out", folder / "sheet.html")
    if rng.random() < 0.1:
        command("train", "ce_clip", "--data", data, "--model", base() / "model", "--steps", "1", "--batch", "2", "--quiet", "--out", folder / "r")
    _walk(Dataset(data))


def _walk(dataset: Dataset) -> None:
    """Everything that a data set gives."""
    for split in dataset.splits:
        dataset.layout(split)
        for key in dataset.keys(split):
            record = dataset.record(key)
            dataset.pixels(key)
            for caption in record.captions:
                list(dataset.negatives.get((key, caption.id), ()))
    list(dataset.negatives)
    _ = dataset.twins, dataset.hard_positives, dataset.truths, dataset.roles, dataset.negative_kinds, dataset.content_hash, len(dataset)


def models(rng: random.Random, folder: Path) -> None:
    """A saved model with damaged files: loaded, and asked for features."""
    import torch

    from wholegrain.towers.io import load_model

    place = _copied("model", folder)
    _damage_some(rng, place)
    model = load_model(str(place))
    with torch.no_grad():
        tokens = model.tokenizer.encode(["a red cup"])
        model.encode_texts(tokens.tokens_NL, tokens.length_N)
        size = model.preprocess.size
        if size < 512:
            model.encode_images(torch.zeros((1, 3, size, size), dtype=torch.uint8))


def search_indices(rng: random.Random, folder: Path) -> None:
    """An index of pictures with damaged files: searched again, with the same outcome."""
    words = ("search", base() / "model", base() / "photos", "a red cup", "--index", folder / "index", "--device", "cpu")
    command(*words)
    _damage_some(rng, folder / "index", rng.choice(("*", "part-*")))
    command(*words)


def specs(rng: random.Random, folder: Path) -> None:
    """Names of models with settings, as ``--model`` takes them, and pairs in TOML."""
    from wholegrain.text.trained import train_tokenizer
    from wholegrain.towers.io import load_model

    if rng.random() < 0.5:
        settings: dict[str, object] = {**SIZES, "context": 12, "width": 8}
        settings[rng.choice(list(settings))] = rng.choice((*mutations.NUMBERS, *mutations.TEXTS[:4]))
        spec = "small:" + ",".join(f"{key}={value}" for key, value in settings.items())
    else:
        spec = rng.choice(("ViT-B-23", "hf-hub:", "small", "small:", "a.toml", "..", "/dev/zero", "runs/latest", ":", ""))
        spec += rng.choice(("", ",context=0", ",context=-1", ",context=99999999999", ",positions=x", ",image_size=0", ":last", *mutations.TEXTS[:10]))
    load_model(spec, tokenizer=train_tokenizer(CAPTIONS, 100, 12))


def recipes(rng: random.Random, folder: Path) -> None:
    """Packaged recipes with other values, read; now and then trained by, for a step."""
    table = to_table(load_recipe(rng.choice(recipe_names())))
    path = folder / "mine.toml"
    try:
        text = tomli_w.dumps(mutations.value_of(rng, table)).replace(mutations.DEEP, "deep").encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, AttributeError):  # TOML knows no null
        text = mutations.bytes_of(rng, tomli_w.dumps(table).encode())
    path.write_bytes(mutations.bytes_of(rng, text) if rng.random() < 0.1 else text)
    if rng.random() < 0.05:
        mutations.put_odd(rng, path)
    if rng.random() < 0.25:
        words = ("--data", base() / "data", "--model", base() / "model", "--steps", "1", "--batch", "2", "--quiet", "--workers", "0")
        command("train", path, *words, "--out", folder / "r")
    else:
        from wholegrain.objectives.objective import Objective

        Objective(load_recipe(path).terms)


def boxes(rng: random.Random, folder: Path) -> None:
    """Annotations of COCO's and LVIS's kind, read; then what training would be asked for, and what would be judged."""
    from wholegrain.downstream.detection.average_precision import matched
    from wholegrain.downstream.detection.boxes import vocabulary, without
    from wholegrain.downstream.detection.coco import read_annotations
    from wholegrain.downstream.detection.detect import NOTHING
    from wholegrain.downstream.detection.task import DetectionSettings, DetectionTask

    lvis = {"neg_category_ids": [2], "not_exhaustive_category_ids": [1]}
    images = [{"id": n, "file_name": f"{n}.png", "width": 12, "height": 10, **(lvis if n else {})} for n in range(3)]
    rows = [{"image_id": n % 3, "category_id": 1 + n % 2, "bbox": [n, 2, 3.5, 4], "iscrowd": n % 5 // 4} for n in range(6)]
    names = [{"id": n, "name": name, "frequency": "rcf"[n % 3]} for n, name in enumerate(("hat", "red cup", "blue_fork"))]
    for n in range(3):
        (folder / f"{n}.png").write_bytes(picture(n))
    path = folder / "boxes.json"
    text = mutations.json_text(mutations.value_of(rng, {"images": images, "annotations": rows, "categories": names}))
    path.write_bytes(mutations.bytes_of(rng, text) if rng.random() < 0.2 else text)
    if rng.random() < 0.05:
        mutations.put_odd(rng, path)
    found = read_annotations(path, folder)
    examples = without(found.pictures, found.rare or frozenset())
    random_N = [np.random.default_rng(n) for n in range(len(examples))]
    DetectionTask(DetectionSettings(), vocabulary(examples)).targets(examples, random_N)
    matched(found.pictures, [NOTHING] * len(found.pictures), found.names, 10)


def overrides(rng: random.Random, folder: Path) -> None:
    """Dotted options."""
    table = to_table(load_recipe(rng.choice(recipe_names())))
    keys = [f"{part}.{key}" for part, inner in table.items() if isinstance(inner, dict) for key in inner] + ["seed", "terms.0.weight", "terms.x"]
    words = []
    for _ in range(rng.choice((1, 1, 2))):
        value = str(rng.choice((*mutations.NUMBERS, *mutations.TEXTS, "[1, 2]", "{a = 1}", "[[", '"x"', "true")))
        words.append(f"--{rng.choice(keys)}={value}")
    load_recipe(rng.choice(recipe_names()), words)


def checkpoints(rng: random.Random, folder: Path) -> None:
    """A run that was cut short, its files damaged, resumed."""
    run = _copied("cut", folder)
    _damage_some(rng, run, rng.choice(("*", "state*", "*.json", "*.toml", "run.json")))
    command("train", "--resume", run, "--quiet", "--workers", "0")


def results(rng: random.Random, folder: Path) -> None:
    """Results with damaged files: compared, and the history of a run read."""
    from wholegrain.report.entry import read_history

    a, b = _copied("a", folder), _copied("b", folder)
    _damage_some(rng, rng.choice((a, b)))
    run = _copied("run", folder)
    _damage_some(rng, run, rng.choice(("run.json", "metrics.jsonl", "recipe.toml")))
    history = read_history(run)
    _ = history.batch, history.step_count, history.images, history.seed
    command("compare", a, b, *rng.choice(((), ("--groups",), ("--out", folder / "c.json"))))


def degenerate(rng: random.Random, folder: Path) -> None:
    """Data that are whole and strange: prepared, enriched, evaluated."""
    texts = (
        "a",
        ".",
        "word " * rng.choice((1, 80, 3000)),
        "\u4e00\u53ea\u732b",
        "\u0642\u0637\u0629 \u0635\u063a\u064a\u0631\u0629",
        "\U0001f408" * 9,
        "a dog\u200d\u200b and a cat",
        "not not not no a dog, not a cat",
        "A red, red, red cup, a blue cup and a red cup left of a red cup .",
        "12345 67 8 9",
        "'s n't \"quoted\" (brackets) [red]",
        "w" * 5000,
    )
    count = rng.choice((1, 1, 2, 3, 8))
    same = rng.random() < 0.3
    lines = []
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(0 if rng.random() < 0.1 else number, "PNG", rng.choice(((1, 1), (1, 300), (12, 10)))))
        for _ in range(rng.choice((1, 1, 5))):
            lines.append(json.dumps({"image": f"{number}.png", "caption": texts[0] if same else rng.choice(texts), "split": rng.choice(("train", "test"))}))
    (folder / "t.jsonl").write_text("\n".join(lines))
    command("prepare", folder / "t.jsonl", folder / "out", "--workers", "1")
    what = rng.randrange(3)
    if what == 0:
        command("enrich", folder / "out", "--negatives", "--hard-positives", "--workers", "1")
    elif what == 1:
        command("evaluate", base() / "model", "--data", folder / "out", "--split", rng.choice(("train", "test")), "--out", folder / "res")
    else:
        command("train", "clip", "--data", folder / "out", "--model", base() / "model", "--steps", "1", "--batch", "2", "--quiet", "--out", folder / "r")


def warm(surfaces: Iterable[str]) -> None:
    """Imports and what libraries make when they are first used, before anything is watched."""
    import matplotlib.pyplot  # noqa: F401 (makes its folder of settings)

    base()
    for surface in surfaces:
        with tempfile.TemporaryDirectory() as place, suppress(Exception):
            SURFACES[surface](random.Random(0), Path(place))


SURFACES: dict[str, Callable[[random.Random, Path], None]] = {
    f.__name__: f
    for f in (tables, tars, pictures, data_folders, models, search_indices, specs, recipes, boxes, overrides, checkpoints, results, degenerate)
}
