"""The doctor names each planted fault, and is silent on healthy data."""

import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from tiny_training import make_recipe

from wholegrain.cli import doctor as command
from wholegrain.cli import main as cli
from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Negative, Record, caption_id, content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar
from wholegrain.doctor import capacity, captions, fit, learning, pictures
from wholegrain.doctor.doctor import RunOptions, examine
from wholegrain.doctor.finding import Finding
from wholegrain.doctor.sample import draw_sample
from wholegrain.doctor.trial import Trial
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers.sources.small import SmallConfig, small_model
from wholegrain.training.run import adapt_model
from wholegrain.training.step import seed_everything

TINY = "small:image_size=16,patch=8,image_width=16,image_layers=1,heads=2,text_width=16,text_layers=1,width=8"
LIVELY = ["--optimiser.steps", "60", "--optimiser.batch", "16", "--optimiser.warmup_steps", "5", "--optimiser.precision", "fp32"]
WORDS = (
    ["red", "blue", "small", "large", "old", "new", "wet", "dry", "warm", "cold", "quick", "slow"],
    ["dog", "cat", "boat", "tree", "house", "child"],
)


def png(pixels_HWC):
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "png")
    return file.getvalue()


def noise(number, size=(48, 48)):
    """Smooth noise: pictures that are unlike each other at any scale."""
    random = np.random.default_rng(number)
    small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return png(np.asarray(small.resize(size, Image.Resampling.BICUBIC)))


def sentence(number):
    first, second = WORDS
    return f"a {first[number % 12]} {second[number // 12 % 6]} near number {number}'s {first[(number * 5 + 1) % 12]} gate"


def make(folder, image=noise, text=sentence, count=72, roles=("web",), negative=None):
    """72 pictures for training, 24 for testing, with two captions each; ``image`` and ``text`` give what number n has."""
    rows, keys = [], set()
    with ShardWriter(folder) as writer:
        for number in range(count + 24):
            file, split = image(number), "train" if number < count else "test"
            key = content_key(file)
            if key in keys:
                key = content_key(file + bytes([number]))
            keys.add(key)
            texts = [text(number), text(number + 500)] if text(number) != text(number + 500) else [text(number)]
            said = tuple(Caption(caption_id(t), t, roles[place % len(roles)]) for place, t in enumerate(texts))
            writer.add(Record(key, f"{key}.png", (48, 48), split, None, said), file)
            if negative is not None:
                rows += [Negative(key, caption.id, "swap", negative(caption.text)) for caption in said]
    if rows:
        write_sidecar(folder, "negatives", rows)
    return folder


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return make(tmp_path_factory.mktemp("healthy") / "data")


def bad(findings):
    return [(finding.check, finding.level) for finding in findings if finding.level != "fine"]


def named(findings, check):
    return next(finding for finding in findings if finding.check == check and finding.level != "fine")


def content(folder, batch=16):
    sample = draw_sample(folder)
    decoded = pictures.decode(sample)
    found = [
        *captions.wrong_field(sample),
        *captions.copies(sample, batch),
        *pictures.dead(decoded),
        *pictures.doubles(sample, decoded),
    ]
    return [*found, *pictures.shared_captions(sample)]


def test_healthy_data_and_recipe_give_no_finding(healthy, tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(
            ["doctor", str(healthy), "clip", "--model", TINY, "--device", "cpu", "--json-out", str(tmp_path / "f.json"), *LIVELY]
        )
    assert "0 to stop for, 0 to look at" in capsys.readouterr().out
    assert done.value.code == 0
    findings = json.loads((tmp_path / "f.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert {
        "caption field",
        "pictures",
        "overlap",
        "batch",
        "gradients",
        "learning rate",
        "one batch by heart",
        "memory",
        "disk",
    } <= {finding["check"] for finding in findings}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (lambda n: f"images/dog_{n}.jpg", "file names"),
        (lambda n: f"https://example.org/{n}", "URLs"),
        (lambda n: f"{n}.25", "numbers"),
        (lambda n: f"IMG_{10000 + n}", "identifiers"),
        (lambda n: content_key(bytes([n % 256, n // 256])), "identifiers"),
        (lambda n: f"<p>{sentence(n)}</p>", "HTML"),
        (lambda n: f"['{sentence(n)}', 'b']", "lists in brackets"),
        (lambda n: "nan" if n % 2 else "N/A", "placeholders"),
    ],
)
def test_captions_that_are_none(tmp_path, text, what):
    finding = named(captions.wrong_field(draw_sample(make(tmp_path / "d", text=text))), "caption field")
    assert finding.level == "stop"
    assert f"are {what}" in finding.said
    assert "record " in finding.said


def test_true_captions_are_not_taken_for_something_else(tmp_path):
    odd = [
        "Route 66 at dawn",
        "3 dogs",
        "A 747-400 lands",
        "dog",
        "U2 on stage",
        "Tom & Jerry",
        "a < b on a board",
        "5 km to go",
        "B2B",
    ]
    findings = captions.wrong_field(
        draw_sample(make(tmp_path / "d", text=lambda n: f"{odd[n % 9]} {'x' * (n % 7)}" if n % 9 != 3 else "dog"))
    )
    assert bad(findings) == []


def test_constant_captions_classes_and_few_different_ones(tmp_path):
    constant = captions.wrong_field(draw_sample(make(tmp_path / "a", text=lambda n: "a picture of something")))
    assert named(constant, "caption field").level == "stop"
    assert "All 96" in named(constant, "caption field").said
    classes = captions.wrong_field(draw_sample(make(tmp_path / "b", text=lambda n: WORDS[1][n % 6])))
    assert "names of classes" in named(classes, "caption field").said
    few = captions.wrong_field(draw_sample(make(tmp_path / "c", text=lambda n: f"a {WORDS[1][n % 6]} in the grass")))
    assert "Only 6 of" in named(few, "caption field").said


def test_copies_and_what_the_loss_makes_of_them(tmp_path):
    sample = draw_sample(make(tmp_path / "d", text=lambda n: sentence(n % 12)))
    finding = named(captions.copies(sample, 16), "copied captions")
    assert "leaves out of account" in finding.said
    assert "takes for false" in named(captions.copies(sample, 16, True), "copied captions").said
    # each of 12 captions is under 12 of 72 images of two captions, one of which is drawn: 15 others, each a copy with chance 11 / 71 / 2
    expected = next(v for name, v in finding.numbers.items() if name.startswith("meets"))
    assert expected == pytest.approx(1 - (1 - 11 / 71 / 2) ** 15, rel=1e-6)
    assert bad(captions.copies(sample, 2)) == []


def turned(image):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    Image.open(io.BytesIO(image)).save(file, "jpeg", exif=exif)
    return file.getvalue()


def test_dead_pictures(tmp_path):
    def image(number):
        if number % 12 == 0:
            return png(np.full((48, 48, 3), number, np.uint8))
        if number % 12 == 1:
            return noise(number, (12, 12))
        if number % 12 == 2:
            return noise(number, (400, 40))
        if number % 12 == 4:
            return turned(noise(number))
        return noise(number)[:-80] if number % 12 == 3 else noise(number)

    findings = pictures.dead(pictures.decode(draw_sample(make(tmp_path / "d", image=image))))
    said = " ".join(finding.said for finding in findings)
    assert all(
        f"8 of 96 pictures looked at {what}" in said
        for what in ("cannot be decoded", "are of one colour", "are tiny", "are over 8", "lie on their side")
    )
    assert {finding.level for finding in findings} == {"look"}


def test_pictures_on_both_sides_of_a_split(tmp_path):
    def image(number):  # a quarter of the test pictures are trained ones: scaled and saved as JPEG
        if number < 72 or number % 4:
            return noise(number)
        file = io.BytesIO()
        Image.open(io.BytesIO(noise(number - 72))).resize((64, 64), Image.Resampling.BICUBIC).save(file, "jpeg", quality=85)
        return file.getvalue()

    findings = content(make(tmp_path / "d", image=image))
    assert bad(findings) == [("overlap", "look")]
    assert "6 of 24 pictures" in named(findings, "overlap").said


def test_captions_on_both_sides_of_a_split(tmp_path):
    findings = content(make(tmp_path / "d", text=lambda n: sentence(n - 72 if 72 <= n < 500 else n)))
    assert bad(findings) == [("overlap of captions", "stop")]


def test_a_raw_table_is_looked_at_before_it_is_prepared(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    lines = ["filepath,caption,title,split"]
    for number in range(40):
        (tmp_path / "images" / f"{number}.png").write_bytes(noise(number))
        lines.append(f"images/{number}.png,images/{number}.png,{sentence(number)},{'train' if number < 30 else 'test'}")
    (tmp_path / "photos.csv").write_text("\n".join(lines))
    for options, code in (([], 2), (["--caption-column", "title"], 0)):
        with pytest.raises(SystemExit) as done:
            cli.main(["doctor", str(tmp_path / "photos.csv"), *options])
        assert done.value.code == code
    assert "are file names" in capsys.readouterr().out


def test_it_says_what_to_do_next_and_where_the_findings_are(healthy, tmp_path, capsys):
    made = tmp_path / "not" / "there" / "f.json"
    common = ["doctor", str(healthy), "clip", "--model", TINY, "--device", "cpu", "--json-out", str(made)]
    with pytest.raises(SystemExit) as done:
        cli.main([*common, "--optimiser.batch", "100"])
    assert done.value.code == 2
    out = capsys.readouterr().out.splitlines()
    assert out[-2:] == [f"written: {made}", "next: mend what would ruin the run, then run the same command again"]
    assert any(finding["level"] == "stop" for finding in json.loads(made.read_text()))
    with pytest.raises(SystemExit):
        cli.main(["doctor", str(healthy)])
    assert capsys.readouterr().out.splitlines()[-1] == f"next: wholegrain doctor {healthy} clip"


def test_an_infinite_number_is_a_text_in_json():
    plain = command._plain(Finding("check", "look", "said", numbers={"diverges": math.inf, "steps": 3, "lr": 0.5}))
    assert json.loads(json.dumps(plain, allow_nan=False))["numbers"] == {"diverges": "inf", "steps": 3, "lr": 0.5}


def test_a_sign_of_life_for_every_part_that_takes_long(healthy):
    shown = []
    made = examine(healthy, "clip", RunOptions(TINY, LIVELY, "cpu"), show=lambda *what: shown.append(what))
    assert all(finding.level == "fine" for finding in made)
    parts = {what: total for what, _, total in shown}
    counted = {what for what, total in parts.items() if total}
    assert {"reading captions of train", "looking at pictures", "counting tokens", "trying learning rates", "learning one batch by heart"} <= counted
    assert all((what, total, total) in shown for what, total in parts.items() if total)  # each comes to its end
    assert {"looking for copies", "making the model", "counting memory"} <= set(parts)


def test_one_reason_why_terms_are_left_out_is_said_once(healthy):
    recipe, dataset, model = ready(healthy)
    terms = [replace(recipe.terms[0], name=name, loss="imc", optional=True) for name in ("one", "two")]
    recipe = replace(recipe, terms=(*recipe.terms, *terms))
    found = fit.terms_and_data(recipe, dataset, model)
    assert len(found) == 1
    assert 'Terms "one", "two" are left out: it needs "negatives"' in found[0].said
    assert f"wholegrain enrich {healthy} --negatives" in found[0].said


@pytest.mark.parametrize(
    ("options", "check", "do"),
    [
        (["--optimiser.batch", "50"], "batch", "set --batch to 36 (now 50)"),
        (["--optimiser.warmup_steps", "50"], "schedule", "set --optimiser.warmup_steps to 6, a tenth of the steps (now 50)"),
        (["--optimiser.steps", "9000"], "schedule", "set --steps to 800 or less (now 9,000)"),
        (["--optimiser.steps", "4"], "schedule", "set --epochs to 5 or more (now 1)"),
    ],
)
def test_advice_has_the_number(healthy, options, check, do):
    recipe, dataset, _ = ready(healthy, *options)
    assert do in named(fit.batches(recipe, dataset, 1, 0), check).do


def test_advice_about_shards_and_workers_has_the_number(healthy):
    recipe, dataset, _ = ready(healthy)
    finding = next(f for f in fit.batches(recipe, dataset, 2, 1000) if f.check == "shards")
    assert re.search(r"set --workers to 0 \(now 1000\), or prepare with --shard-mib 1", finding.do)
    finding = [f for f in fit.batches(recipe, dataset, 1, 1000) if f.check == "shards"][-1]
    assert re.search(r"set --workers to \d+ \(now 1000\)", finding.do)


def test_texts_that_the_context_cuts_off(tmp_path):
    folder = make(tmp_path / "d", text=lambda n: " ".join([sentence(n)] * 3))
    model = model_for(Dataset(folder), 12)
    finding = named(captions.cut_off(draw_sample(folder), model.tokenizer), "cut texts")
    assert finding.numbers["cut"] == 1
    assert finding.numbers["words lost"] > 0.4


# ---- the recipe -------------------------------------------------------------------------------------------------------------


def model_for(dataset, context=32):
    seed_everything(0)
    tokenizer = train_tokenizer([c.text for record in dataset.records("train") for c in record.captions], 400, context)
    sizes = {
        "image_size": 16,
        "patch": 8,
        "image_width": 16,
        "image_layers": 1,
        "heads": 2,
        "text_width": 16,
        "text_layers": 1,
        "width": 8,
    }
    return small_model(SmallConfig(**sizes, context=context), tokenizer)


def ready(folder, *options, name="clip"):
    dataset = Dataset(folder)
    recipe, model = make_recipe(name, *LIVELY, *options), model_for(dataset)
    adapt_model(model, recipe)
    return recipe, dataset, model


def test_roles_and_negatives_that_are_missing(healthy):
    recipe, dataset, model = ready(healthy, "--data.captions", '[{ roles = ["detail"], count = 1 }]')
    assert "asks for the roles detail" in fit.terms_and_data(recipe, dataset, model)[0].said
    recipe, dataset, model = ready(healthy, name="negclip")
    finding = fit.terms_and_data(recipe, dataset, model)[0]
    assert (finding.level, "negatives" in finding.said) == ("stop", True)


def test_negatives_that_are_true(tmp_path):
    folder = make(tmp_path / "d", negative=lambda text: text.upper() + "." if "red" in text else f"no {text}")
    recipe, dataset, _ = ready(folder, name="negclip")
    finding = named(fit.negatives(recipe, draw_sample(folder), dataset), "negatives")
    assert "true caption of their own image" in finding.said
    wrong = sum("red" in c.text for r in dataset.records("train") for c in r.captions)
    assert finding.numbers["true"] == pytest.approx(wrong / 144)


def test_batches_processes_and_schedule(healthy):
    recipe, dataset, _ = ready(healthy, "--optimiser.batch", "100")
    assert "has 72 images and a batch takes 100" in fit.batches(recipe, dataset, 1, 0)[0].said
    recipe, dataset, _ = ready(healthy)
    assert fit.batches(recipe, dataset, 3, 0)[0].level == "stop"
    assert "read 1 shards" in fit.batches(recipe, dataset, 4, 0)[0].said
    recipe, dataset, _ = ready(healthy, "--optimiser.warmup_steps", "50")
    assert "cut to half" in named(fit.batches(recipe, dataset, 1, 0), "schedule").said
    recipe, dataset, _ = ready(healthy, "--optimiser.steps", "9000")
    assert "comes 2,250 times" in named(fit.batches(recipe, dataset, 1, 0), "schedule").said
    assert fit.processes_of({"WORLD_SIZE": "8"}) == 8
    assert fit.processes_of({}) == 1


# ---- steps ------------------------------------------------------------------------------------------------------------------


def trial_of(folder, *options, name="clip"):
    recipe, dataset, model = ready(folder, *options, name=name)
    return Trial.of(recipe, dataset, model, torch.device("cpu"))


def test_trying_leaves_the_model_as_it_was(healthy):
    trial = trial_of(healthy)
    before = {name: value.clone() for name, value in trial.model.state_dict().items()}
    batch = trial.batch(8)
    assert len(set(batch.texts)) == len(batch.texts) == 8
    learning.by_heart(trial, batch, 5, learning.rising(trial, batch, 26))
    assert all(torch.equal(value, before[name]) for name, value in trial.model.state_dict().items())


@pytest.mark.parametrize("name", ["clip", "siglip", "sparc", "holistic", "cosmos", "fusion", "tips"])
def test_guessing_is_what_features_that_are_all_the_same_give(healthy, name):
    trial = trial_of(healthy, name=name)
    batch = trial.batch(8)
    chance = float(trial.loss(batch, blind=True).detach())
    assert math.isfinite(chance)
    if name == "clip":
        assert chance == pytest.approx(math.log(8), abs=1e-4)


def test_a_rate_that_diverges_is_tried_and_stops(healthy):
    trial = trial_of(healthy, "--optimiser.lr", "50")
    batch = trial.batch(8)
    rates = learning.read_rates([1e-4, 1e-3, 1e-2], [0.9, 0.5, 1.0])
    assert (rates.falls, rates.fastest, rates.diverges) == (1e-4, 1e-3, 1e-2)
    finding = learning.learning_rate(trial, batch, rates)[0]
    assert finding.level == "stop"
    assert "try --lr 1e-03" in finding.do
    slow = trial_of(healthy, "--optimiser.lr", "1e-8")
    assert learning.learning_rate(slow, batch, rates)[0].level == "look"
    assert learning.learning_rate(trial_of(healthy), batch, rates)[0].level == "fine"


def test_what_cannot_learn_is_stopped(healthy):
    trial = trial_of(healthy)
    batch = trial.batch(8)
    for parameter in trial.model.image_tower.parameters():
        torch.nn.init.zeros_(parameter)
    found = {finding.check: finding.level for finding in learning.start(trial, batch, False)}
    assert found["gradients"] == "stop"
    stuck = learning.by_heart(trial, batch, 12, learning.rising(trial, batch, 13))[0]
    assert stuck.level == "stop"
    assert "all images" in stuck.do
    lively = trial_of(healthy)
    for parameter in lively.model.parameters():
        parameter.requires_grad_(False)
    assert "Nothing is trained" in learning._gradients(lively.model)[0].said


def test_losses_that_are_not_numbers_or_worse_than_guessing(healthy):
    trial = trial_of(healthy)
    batch = trial.batch(8)
    assert bad(learning.start(trial, batch, False)) == []
    assert bad(learning.start(trial, batch, True)) == [("loss at the start", "look")]  # as if it had been trained
    with torch.no_grad():
        trial.model.text_tower.embedding.weight.fill_(math.nan)
    assert bad(learning.start(trial, batch, False)) == [("loss at the start", "stop")]


def test_memory_and_disk(healthy, tmp_path, monkeypatch):
    trial = trial_of(healthy, "--optimiser.batch", "64")
    assert bad(capacity.memory(trial, 1)) == []
    few, more = capacity._kept_bytes(trial, 8), capacity._kept_bytes(trial, 16)
    assert more > 1.5 * few
    each = (more - few) / 8
    monkeypatch.setattr(capacity, "device_memory", lambda device: 1.2 * (capacity.fixed_bytes(trial.model, False) + few + 20 * each))
    finding = capacity.memory(trial, 1)[0]
    assert (finding.level, "optimiser.micro_batch to 16" in finding.do) == ("stop", True)
    assert capacity.memory(trial, 8)[0].level == "fine"
    assert bad(capacity.disk(trial, tmp_path)) == []
    monkeypatch.setattr(capacity.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    assert bad(capacity.disk(trial, tmp_path)) == [("disk", "stop")]


def test_every_packaged_kind_of_recipe_is_tried(tmp_path):
    folder = make(tmp_path / "d", negative=lambda text: f"no {text}")
    findings = list(examine(folder, "negclip", RunOptions(TINY, LIVELY, "cpu", out=tmp_path)))
    assert bad(findings) == []
