"""Classification benchmarks: layouts, ImageNet's parts, the figures that are quoted, probes, corruptions, averages."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from eval_fakes import FakeModel, vector
from PIL import Image

from wholegrain.cli.evaluate import EvaluateArguments, evaluate
from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.averages import AVERAGES, ELEVATER, averaged
from wholegrain.evaluation.benchmarks.class_images import class_set
from wholegrain.evaluation.benchmarks.class_table import CLASS_TASKS
from wholegrain.evaluation.benchmarks.classification import score_classes, score_probes
from wholegrain.evaluation.benchmarks.corrupted import Corruptions, corrupted_captions, corrupted_classes
from wholegrain.evaluation.benchmarks.corruptions import ALEXNET, SEVERITIES
from wholegrain.evaluation.benchmarks.items import CaptionSet, LabelledSet, Picture
from wholegrain.evaluation.benchmarks.run import BenchmarkExtras, BenchmarkSpec, run_benchmarks, suite_averages, suite_file
from wholegrain.evaluation.features.feature_store import FeatureStore
from wholegrain.evaluation.result import Figure, NotSupportedError, TaskResult
from wholegrain.evaluation.statistics.average_precision import average_precision, mean_average_precision
from wholegrain.evaluation.statistics.rows import Rows, table
from wholegrain.evaluation.tasks import imagenet
from wholegrain.evaluation.tasks.few_shot import drawn
from wholegrain.evaluation.tasks.templates import prompts, templates_of

# --- pictures that spell a number ---------------------------------------------------------------------------------------


def pixels(number):
    return np.tile(np.array([number % 256, number // 256, 7], np.uint8), (6, 6, 1))


def photo(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(number)).save(path)


def knows(label_of):
    """A model that sees the label of picture ``n`` by ``label_of(n)`` and reads the last word of a sentence that is a label."""

    def image_of(key):
        return vector(label_of(int(key.removeprefix("key")))) + 0.1 * vector(key)

    return FakeModel(image_of, lambda text: vector(text.removeprefix("a photo of a ").rstrip(".")))


def folders(tmp_path, names=("cup", "red_star", "hand"), each=5, part="test", start=0):
    number, label = start, {}
    for name in names:
        for _ in range(each):
            photo(tmp_path / part / name / f"{number}.png", number)
            label[number] = name.replace("_", " ")
            number += 1
    return label


# --- readers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["test", "val", ""])
def test_a_folder_for_each_class(tmp_path, part):
    label = folders(tmp_path, part=part)
    found = class_set("classes")(tmp_path)
    assert found.classes == ("cup", "hand", "red star")
    assert [found.classes[n] for (n,) in found.labels] == ["cup"] * 5 + ["hand"] * 5 + ["red star"] * 5
    model = knows(label.__getitem__)
    result = score_classes(found, model, FeatureStore(model))
    assert result.metrics["acc1"] == 1
    assert result.figures[0].name == "acc1"
    assert "what papers quote" in result.figures[0].note
    assert result.metrics["majority"] == pytest.approx(1 / 3)
    assert result.items["label"].to_pylist()[-1] == "red star"
    assert "15 pictures are too few to rank methods" in result.protocol


def test_words_of_folders_may_be_told(tmp_path):
    folders(tmp_path)
    (tmp_path / "classnames.json").write_text(json.dumps({"red_star": "ruby star"}))
    assert class_set("pets")(tmp_path).classes == ("cup", "hand", "ruby star")


def test_the_usual_figure_and_sentences_come_with_the_name(tmp_path):
    folders(tmp_path)
    pets = class_set("pets")(tmp_path)
    assert pets.metric == "mean_per_class_recall"
    assert pets.templates == ("a photo of a {}, a type of pet.",)
    assert "3,669 pictures, so do not compare" in " ".join(pets.notes)
    assert class_set("pets")(tmp_path, templates=("openai7",)).templates == templates_of(["openai7"])
    model = FakeModel(vector, vector)
    assert score_classes(pets, model, FeatureStore(model)).figures[0].name == "mean_per_class_recall"


def shard(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def encoded(number, form="png"):
    out = io.BytesIO()
    Image.fromarray(pixels(number)).save(out, form, **({"lossless": True} if form == "webp" else {}))
    return out.getvalue()


def shards(folder, part, numbers, count=2, form="webp"):
    for n in range(count):
        own = [number for number in numbers if number % count == n]
        shard(
            folder / part / f"{n}.tar",
            [m for k in own for m in ((f"s{k:04d}.cls", str(k % 3).encode()), (f"s{k:04d}.{form}", encoded(k, form)))],
        )
    (folder / part / "nshards.txt").write_text(f"{count}\n")


def test_clip_benchmarks_shards(tmp_path):
    shards(tmp_path, "test", range(12))
    shards(tmp_path, "train", range(20, 50), 1, "png")
    (tmp_path / "classnames.txt").write_text("cup\nstar\nhand\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("see {c}\na {c} is here\n")
    found = class_set("classes")(tmp_path)
    assert found.templates == ("see {}", "a {} is here")
    assert class_set("cifar10")(tmp_path).templates == prompts()["cifar10"]
    assert [n for (n,) in found.labels] == [k % 3 for k in [*range(0, 12, 2), *range(1, 12, 2)]]
    names = found.classes
    model = FakeModel(lambda key: vector(names[int(key[3:]) % 3]), lambda text: vector(next(c for c in names if c in text)))
    store = FeatureStore(model, tmp_path / "cache")
    assert score_classes(found, model, store).metrics["acc1"] == 1
    assert score_probes(found, store)[0].metrics["acc1"] == 1
    model.encode_images = None  # everything is in the store
    assert score_classes(found, model, FeatureStore(model, tmp_path / "cache")).metrics["acc1"] == 1


def test_shards_that_cannot_be_used_are_named(tmp_path):
    shards(tmp_path, "test", range(4), 1)
    with pytest.raises(UserError, match=r"classnames\.txt"):
        class_set("classes")(tmp_path)
    (tmp_path / "classnames.txt").write_text("cup\nstar\n")
    with pytest.raises(UserError, match="only 2 names"):
        class_set("classes")(tmp_path)
    (tmp_path / "classnames.txt").write_text("cup\nstar\nhand\n")
    shard(tmp_path / "test" / "0.tar", [("a.png", encoded(0))])
    with pytest.raises(UserError, match=r"no \.cls"):
        class_set("classes")(tmp_path)
    shard(tmp_path / "test" / "0.tar", [("a.cls", b"1"), ("a.png", encoded(0))], "w:gz")
    with pytest.raises(UserError, match="plain tar"):
        class_set("classes")(tmp_path)
    with pytest.raises(UserError, match="huggingface"):
        class_set("food101")(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="test/CLASS"):
        class_set("classes")(tmp_path / "empty")


def test_imagenets_offspring_keep_their_classes(tmp_path):
    fish, kept, dropped = (
        imagenet.wnids()[0],
        imagenet.wnids("r")[1],
        next(w for w in imagenet.wnids() if w not in imagenet.wnids("r")),
    )
    for number, name in enumerate((kept, fish, dropped)):
        photo(tmp_path / "all" / name / f"{number}.JPEG", number)
    whole = class_set("imagenet")(tmp_path / "all")
    assert len(whole.classes) == 1000
    assert [whole.classes[n] for (n,) in whole.labels] == [imagenet.names()[w] for w in sorted((kept, fish, dropped))]
    part = class_set("imagenet_r")(tmp_path / "all")
    assert (len(part.classes), len(part.pictures)) == (200, 1)
    assert part.classes[part.labels[0][0]] == imagenet.names()[kept]
    for n, name in enumerate(("2", "10", "999")):  # as text 10 sorts before 2
        photo(tmp_path / "v2" / name / f"{n}.jpeg", n)
    assert [n for (n,) in class_set("imagenetv2")(tmp_path / "v2").labels] == [2, 10, 999]
    with pytest.raises(UserError, match="WordNet id"):
        class_set("imagenet")(tmp_path / "v2")
    with pytest.raises(UserError, match="0 to 999"):
        class_set("imagenetv2")(tmp_path / "all")


def test_objectnet_takes_the_classes_that_imagenet_has(tmp_path):
    photo(tmp_path / "images" / "air_freshener" / "0.png", 0)
    photo(tmp_path / "images" / "alarm_clock" / "1.png", 1)
    photo(tmp_path / "images" / "t_shirt" / "2.png", 2)
    with pytest.raises(UserError, match="mappings"):
        class_set("objectnet")(tmp_path)
    (tmp_path / "mappings").mkdir()
    words = {"air_freshener": "Air freshener", "alarm_clock": "Alarm clock", "t_shirt": "T-shirt"}
    (tmp_path / "mappings" / "folder_to_objectnet_label.json").write_text(json.dumps(words))
    (tmp_path / "mappings" / "objectnet_to_imagenet_1k.json").write_text(json.dumps({"Alarm clock": "x", "T-shirt": "y; z"}))
    found = class_set("objectnet")(tmp_path)
    assert found.classes == ("alarm clock", "t-shirt")
    assert [n for (n,) in found.labels] == [0, 1]


# --- figures ------------------------------------------------------------------------------------------------------------


def slow_precision(order):
    """Precision at each true place by counting."""
    hits = [n for n, true in enumerate(order) if true]
    precision = [sum(order[: n + 1]) / (n + 1) for n in range(len(order))]
    recall = [sum(order[: n + 1]) / sum(order) for n in range(len(order))]
    eleven = [max(p for p, r in zip(precision, recall, strict=True) if r >= t / 10 - 1e-9) for t in range(11)]
    return np.mean([precision[n] for n in hits]), np.mean(eleven)


def test_average_precision_by_counting():
    rng = np.random.default_rng(0)
    for _ in range(30):
        order = rng.random(12) < 0.4
        if order.any():
            assert average_precision(order[None].astype(float))[0] == pytest.approx(slow_precision(order.tolist()))
    twice = average_precision(np.array([[1.0, 0.0, 1.0]]), np.array([[2.0, 1.0, 1.0]]))  # a picture drawn twice
    assert twice[0, 0] == pytest.approx((2 * 1 + 3 / 4) / 3)


def test_multi_label_sets(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.random((40, 3)) < 0.4
    members = []
    for n, row in enumerate(truth):
        out = io.BytesIO()
        np.save(out, row.astype(np.int64))
        members += [(f"{n:04d}.npy", out.getvalue()), (f"{n:04d}.png", encoded(n))]
    shard(tmp_path / "test" / "0.tar", members)
    (tmp_path / "test" / "nshards.txt").write_text("1")
    (tmp_path / "classnames.txt").write_text("cup\nstar\nhand\n")
    found = class_set("voc2007")(tmp_path)
    names = found.classes
    sees = lambda key: sum((vector(names[c]) for c in np.flatnonzero(truth[int(key[3:])])), 0.05 * vector(key))  # noqa: E731
    oracle = FakeModel(sees, lambda text: vector(next(c for c in names if c in text)))
    result = score_classes(found, oracle, FeatureStore(oracle))
    assert result.figures[0].name == "mean_average_precision_11"
    assert result.metrics["mean_average_precision"] > 0.95
    figure = result.figure("mean_average_precision")
    assert figure.chance == pytest.approx(truth.mean(), abs=0.1)
    assert figure.shuffled < 0.75
    same = FakeModel(lambda key: torch.ones(8), lambda text: torch.ones(8))
    constant = score_classes(found, same, FeatureStore(same)).figure("mean_average_precision")
    assert constant.value == pytest.approx(constant.chance, abs=0.15)
    with pytest.raises(NotSupportedError, match="several labels"):
        corrupted_classes(found, oracle, FeatureStore(oracle), Corruptions())
    with pytest.raises(NotSupportedError, match="rank"):
        mean_average_precision(np.zeros((2, 1)), np.zeros((2, 1)), np.ones((2, 1)), ["a", "b"])


def test_hateful_memes_by_the_area_under_the_curve(tmp_path):
    label = folders(tmp_path, ("meme", "hatespeech_meme"))
    found = class_set("hateful_memes")(tmp_path)
    model = FakeModel(lambda key: vector(label[int(key[3:])]), lambda text: vector(text.removeprefix("a ").rstrip(".")))
    result = score_classes(found, model, FeatureStore(model))
    assert result.figures[0].name == "roc_auc"
    assert result.figures[0].value == 1
    assert result.figures[0].chance == 0.5


def test_probes_and_shots(tmp_path):
    label = folders(tmp_path, each=12) | folders(tmp_path, each=20, part="train", start=100)
    found = class_set("classes")(tmp_path)
    model = knows(label.__getitem__)
    linear, few = score_probes(found, FeatureStore(model), shots=(1, 4), draws=3)
    assert (linear.task, few.task) == (f"{tmp_path.name}_linear_probe", f"{tmp_path.name}_few_shot")
    assert linear.metrics["acc1"] == linear.metrics["mean_per_class_recall"] == 1
    assert few.metrics["4_shot/acc1"] == 1
    assert few.figure("1_shot/acc1").chance == pytest.approx(1 / 3)
    assert few.figure("4_shot/acc1").shuffled < 0.7
    same = FakeModel(lambda key: torch.ones(8), vector)
    blind = score_probes(found, FeatureStore(same), shots=(2,), draws=2)
    assert blind[1].metrics["2_shot/acc1"] == pytest.approx(1 / 3)
    assert blind[0].metrics["acc1"] == pytest.approx(1 / 3)
    alone = class_set("classes")(tmp_path / "train")
    with pytest.raises(NotSupportedError, match="no training part"):
        score_probes(alone, FeatureStore(model))


def test_shots_are_as_many_of_each_class_and_what_chooses_is_not_what_fits():
    label = torch.arange(3).repeat_interleave(torch.tensor([30, 5, 2]))
    used, held, short = drawn(label, 4, np.random.default_rng(0))
    assert torch.bincount(label[used]).tolist() == [4, 4, 2]
    assert torch.bincount(label[held], minlength=3).tolist() == [4, 1, 0]
    assert short == 1
    assert not set(used.tolist()) & set(held.tolist())
    assert set(drawn(label, 4, np.random.default_rng(1))[0].tolist()) != set(used.tolist())


# --- corruptions of sets ------------------------------------------------------------------------------------------------


class Bright:
    """Sees whether a picture is brighter than grey."""

    def __call__(self, pixels_BCHW, needs=frozenset()):
        from wholegrain.features import ImageFeatures

        bright = (pixels_BCHW.float().mean((1, 2, 3)) > 127).float()
        return ImageFeatures(torch.stack([bright, 1 - bright], 1))


def bright_model():
    model = FakeModel(None, lambda text: torch.tensor([1.0, 0.0]) if "light" in text else torch.tensor([0.0, 1.0]))
    model.encode_images = Bright()
    return model


def grey_set(tmp_path, levels=(20, 40, 110, 150, 200, 240), name="imagenet"):
    pictures, labels = [], []
    for n, level in enumerate(levels):
        path = tmp_path / f"{n}.png"
        Image.new("RGB", (40, 60), (level,) * 3).save(path)
        pictures.append(Picture(path))
        labels.append((int(level > 127),))
    return LabelledSet(name, tuple(pictures), tuple(labels), ("dark", "light"), ("a {} photo",), "acc1", "a test")


def test_a_row_for_each_corruption_and_the_clean_view(tmp_path):
    model = bright_model()
    how = Corruptions(("brightness", "contrast"), (1, 5))
    found = corrupted_classes(grey_set(tmp_path), model, FeatureStore(model), how)
    assert found.task == "imagenet_corrupted"
    assert found.metrics["clean/acc1"] == 1
    assert found.metrics["contrast/acc1"] == 1  # a flat picture has no contrast to lose
    # brightness adds 25.5 and 127.5: level 110 turns light at both, 20 and 40 at the second alone
    assert found.metrics["brightness/acc1"] == pytest.approx((5 + 3) / 12)
    assert found.metrics["corruption_error"] == pytest.approx(1 - (1 + 8 / 12) / 2)
    assert found.metrics["acc1"] == pytest.approx(1 - found.metrics["corruption_error"])
    assert "mce_alexnet" not in found.metrics  # not all corruptions
    assert len(found.items) == 6 * 5
    assert found.figure("brightness/acc1").chance == 0.5


def test_mean_corruption_error_divides_by_alexnets(tmp_path):
    model = bright_model()
    found = corrupted_classes(grey_set(tmp_path, (110, 200)), model, FeatureStore(model), Corruptions())
    errors = {name: found.metrics[f"{name}/corruption_error"] for name in ALEXNET}
    assert found.metrics["mce_alexnet"] == pytest.approx(np.mean([errors[name] / ALEXNET[name] for name in ALEXNET]))
    assert found.metrics["brightness/mce_alexnet"] == pytest.approx(errors["brightness"] / ALEXNET["brightness"])
    assert "frost is drawn" in found.protocol
    other = corrupted_classes(grey_set(tmp_path, name="mine"), model, FeatureStore(model), Corruptions(("fog",)))
    assert "mce_alexnet" not in other.metrics


def test_retrieval_under_corruption(tmp_path):
    model = bright_model()
    images = grey_set(tmp_path, (100, 240))
    captions = CaptionSet("two", images.pictures, (("it is dark",), ("it is light",)), "a test")
    found = corrupted_captions(captions, model, FeatureStore(model), Corruptions(("brightness",), (1, 2)))
    assert found.metrics["clean/image_retrieval_recall@1"] == 1
    assert found.metrics["brightness/text_retrieval_recall@1"] == pytest.approx(3 / 4)  # at the second level both are light
    assert found.figure("brightness/text_retrieval_recall@1").chance == 0.5
    assert not any("rank" in name for name in found.metrics)


def test_corrupted_features_are_kept_apart_and_found_again(tmp_path):
    model, calls = bright_model(), []
    encode = model.encode_images
    model.encode_images = lambda pixels, needs=frozenset(): (calls.append(len(pixels)), encode(pixels))[1]
    found = grey_set(tmp_path)
    first = corrupted_classes(found, model, FeatureStore(model, tmp_path / "c"), Corruptions(("fog",), (1,)))
    count = len(calls)
    again = corrupted_classes(found, model, FeatureStore(model, tmp_path / "c"), Corruptions(("fog",), (1,)))
    assert len(calls) == count
    assert first.metrics == again.metrics
    corrupted_classes(found, model, FeatureStore(model, tmp_path / "c"), Corruptions(("fog",), (1,), seed=1))
    assert len(calls) > count


# --- averages -----------------------------------------------------------------------------------------------------------

DEGLA = {  # DeGLA, table 5, and the printed mean
    "CLIP": ([86.5, 61.0, 78.5, 79.6, 58.4, 59.9, 48.8, 38.7, 86.3, 15.3, 57.9], 61.0),
    "NegCLIP": ([86.1, 59.9, 72.1, 78.7, 53.9, 56.8, 43.5, 37.7, 84.3, 11.6, 54.0], 58.1),
    "Structure-CLIP": ([76.8, 47.4, 55.1, 61.4, 31.3, 48.3, 16.4, 29.4, 71.0, 7.6, 37.3], 43.8),
    "CE-CLIP": ([80.5, 54.1, 57.6, 59.0, 30.1, 49.2, 22.8, 27.6, 74.4, 9.1, 38.1], 45.7),
    "DeGLA": ([86.5, 59.5, 75.6, 76.0, 52.8, 59.5, 45.7, 38.1, 84.0, 14.1, 54.5], 58.7),
}
VL_COMPO = {  # individual_results.csv in the order of ELEVATER's 20 and ImageNet; results.csv, 21_tasks_avg
    "CLIP B/32": (
        [88.26, 89.83, 65.08, 17.21, 44.41, 45.54, 42.27, 19.65, 66.68, 84.01, 32.56, 55.87, 27.43, 48.25, 87.14, 60.62, 58.59, 60.02,
         59.64, 82.61, 63.34], 57.0952,
    ),
    "CE-CLIP": (
        [82.14, 85.9, 60.21, 9.56, 35.21, 44.88, 39.65, 9.98, 47.17, 70.1, 27.99, 53.46, 34.6, 40.56, 65.99, 58.78, 61.18, 51.51, 35.29,
         83.07, 49.92], 49.8649,
    ),
}  # fmt: skip


def test_published_averages_from_published_parts():
    for name, sets, printed_of, within in (("degla_11", AVERAGES["degla_11"], DEGLA, 0.06), ("vl_compo_21", (*ELEVATER, "imagenet"), VL_COMPO, 0.006)):
        for parts, printed in printed_of.values():
            (found,) = averaged(name, [result(one, part, CLASS_TASKS[one].metric) for one, part in zip(sets, parts, strict=True)])
            assert found.figure("score").value == pytest.approx(printed, abs=within)


def result(task, value, metric="acc1"):
    figure = Figure(metric, value, value - 0.02, value + 0.01, 100, 0.1, 0.1)
    rows = Rows(["a"], [""], ["a"], {metric: np.array([value])})
    return TaskResult(task, "p", (figure,), table(rows))


def test_an_average_takes_the_quoted_figures_and_refuses_to_lack_one():
    sets = AVERAGES["degla_11"]
    results = [result(one, 0.5 + 0.01 * n, CLASS_TASKS[one].metric) for n, one in enumerate(sets)]
    found = averaged("degla_11", results)
    assert len(found) == 1
    overall = found[0].figure("score")
    assert overall.value == pytest.approx(0.55)
    assert overall.low == pytest.approx(0.55 - 0.02 / np.sqrt(11))
    assert overall.high == pytest.approx(0.55 + 0.01 / np.sqrt(11))
    assert found[0].metrics["pets/mean_per_class_recall"] == pytest.approx(0.53)
    with pytest.raises(UserError, match="lacks cars, imagenet"):
        averaged("degla_11", [r for r in results if r.task not in ("cars", "imagenet")])
    with pytest.raises(UserError, match="degla_11"):
        averaged("degla_12", [])
    probes = averaged("degla_11", [*results, *(result(f"{one}_linear_probe", 0.7) for one in sets)])
    assert probes[1].metrics["score"] == pytest.approx(0.7)


# --- by name ------------------------------------------------------------------------------------------------------------


def test_every_set_has_sentences_and_the_averages_are_of_sets():
    for task in CLASS_TASKS.values():
        assert all("{}" in template for template in templates_of([task.prompts]))
    assert len(templates_of(["cifar10"])) == 18
    assert {one for sets in AVERAGES.values() for one in sets} <= set(CLASS_TASKS)
    assert [len(sets) for sets in AVERAGES.values()] == [20, 21, 21, 11]
    with pytest.raises(UserError, match="food101"):
        templates_of(["food"])


def test_what_cannot_be_probed_is_still_classified(tmp_path):
    label = folders(tmp_path)
    reasons = {}
    wanted = BenchmarkSpec("classes", tmp_path, extras=BenchmarkExtras(probe=True))
    found = run_benchmarks(knows(label.__getitem__), [wanted], progress=False, left_out=reasons)
    assert [r.task for r in found] == [tmp_path.name]
    assert "no training part" in reasons[f"{tmp_path.name} (probe)"]


def test_a_suite_file_may_ask_for_more(tmp_path):
    label = folders(tmp_path / "set") | folders(tmp_path / "set", part="train", start=50)
    text = (
        'average = ["degla_11"]\n[[benchmark]]\nname = "classes"\nfolder = "set"\ncorrupt = "fog"\nseverities = [2]\nprobe = true\nshots = [1]\n'
        'templates = ["photo"]\n'
    )
    (tmp_path / "suite.toml").write_text(text)
    assert suite_averages(tmp_path / "suite.toml") == ("degla_11",)
    wanted = suite_file(tmp_path / "suite.toml")
    found = run_benchmarks(knows(lambda number: label.get(number, "cup")), wanted, progress=False)
    assert [r.task for r in found] == ["set", "set_linear_probe", "set_few_shot", "set_corrupted"]
    assert "severities 2 of" in found[3].protocol


FOREIGN = """
import numpy as np, torch
class Tiny:
    def preprocess(self, picture):
        return torch.from_numpy(np.array(picture.resize((2, 2)))).permute(2, 0, 1).float()
    def encode_images(self, pixels):
        return pixels.flatten(1)
    def encode_texts(self, texts):
        return torch.tensor([[float(len(text))] * 12 for text in texts])
def tiny():
    return Tiny()
"""


def test_the_command(tmp_path, capsys):
    folders(tmp_path / "set")
    (tmp_path / "foreign.py").write_text(FOREIGN)
    model, out = f"{tmp_path / 'foreign.py'}:tiny", tmp_path / "out"
    evaluate(
        EvaluateArguments(
            model=model,
            benchmark=(f"classes={tmp_path / 'set'}",),
            corrupt="contrast",
            severities=(1,),
            templates=("openai7",),
            out=out,
            device="cpu",
        )
    )
    rows = {row["task"]: row for row in json.loads((out / "results.json").read_text())["results"]}
    assert set(rows) == {"set", "set_corrupted"}
    assert "7 sentences" in rows["set"]["protocol"]
    assert rows["set"]["metrics"]["acc1_expected"] == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="degla_11 lacks cifar10"):
        evaluate(EvaluateArguments(model=model, benchmark=(f"classes={tmp_path / 'set'}",), average=("degla_11",), device="cpu"))
    with pytest.raises(UserError, match="corruption"):
        evaluate(EvaluateArguments(model=model, benchmark=(f"classes={tmp_path / 'set'}",), corrupt="rain", device="cpu"))
    capsys.readouterr()


def test_severities_are_all_unless_told():
    assert Corruptions().each()[0] == ("clean", 0)
    assert len(Corruptions().each()) == 1 + 15 * len(SEVERITIES)
