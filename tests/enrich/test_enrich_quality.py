"""The quality sheet: what is counted, what text alone gives away, and the page."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Negative, Record, caption_id, content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar
from wholegrain.enrich.hard_positives import HardPositivesStage
from wholegrain.enrich.negatives.negated_captions import NegatedCaptionsStage
from wholegrain.enrich.negatives.word_rules import NegativesStage
from wholegrain.enrich.quality import count, diversity, logistic_wins
from wholegrain.errors import UserError
from wholegrain.workflows.quality import quality


def picture(n: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(n).integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("data") / "d"
    colours, things = ("red", "blue", "green"), ("hat", "helmet", "scarf")
    with ShardWriter(place) as writer:
        for n in range(40):
            image = picture(n)
            texts = (
                f"A man wearing a {colours[n % 3]} {things[n % 2]} runs on the {('beach', 'street')[n % 2]} .",
                f"{('Two', 'Three')[n % 2]} dogs sit on a bench .",
            )
            captions = tuple(Caption(caption_id(text), text) for text in texts)
            writer.add(Record(content_key(image), "i.png", (24, 24), "train", None, captions), image)
    dataset = Dataset(place)
    keys = dataset.keys("train")
    for stage in (NegatedCaptionsStage(), NegativesStage(), HardPositivesStage()):
        stage.fit(dataset, keys)
        records = [dataset.record(key) for key in keys]
        write_sidecar(place, stage.table, [row for rows in stage.rows(records, [None] * len(records)) for row in rows])
        dataset = Dataset(place)
    return place


def test_counts_and_page(folder, tmp_path):
    dataset = Dataset(folder)
    facts = quality(dataset, tmp_path / "q", samples=2)
    counts = facts["counts"]
    assert counts["captions"] == 80  # negated ones belong to those that they were made of
    assert counts["roles"]["web"] == 80
    assert counts["roles"]["negated"] >= 80
    assert sum(counts["kinds"].values()) == sum(map(len, dataset.negatives.values()))
    assert facts["covered share"] == 1.0
    assert counts["families_per_caption"] < counts["kinds_per_caption"]
    assert facts["blind"]["negation_object"]["unigram"]["share"] == 0.5
    assert facts["blind"]["negation_object"]["shorter"]["share"] == 0.5
    page = (tmp_path / "q" / "quality.html").read_text()
    assert "<script" not in page
    assert 'src="http' not in page
    assert '<del class="old">' in page
    assert ", not " in page
    assert json.loads((tmp_path / "q" / "quality.json").read_text()) == json.loads(json.dumps(facts))


def large_pictures(place, count: int) -> Dataset:
    """Photos of 1,200 x 800 pixels of noise, which hardly shrinks, each with a caption and false texts of eight kinds."""
    negatives = []
    with ShardWriter(place) as writer:
        for n in range(count):
            file = io.BytesIO()
            noise = np.random.default_rng(n).integers(0, 255, (80, 120, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((1200, 800)).save(file, "JPEG", quality=80)
            caption = Caption(caption_id(f"a brown dog {n}"), f"a brown dog {n}")
            key = content_key(file.getvalue())
            writer.add(Record(key, "i.jpg", (1200, 800), "train", None, (caption,)), file.getvalue())
            negatives += [Negative(key, caption.id, f"kind{k}", f"a black dog {n}", ((2, 7, "brown", "black"),)) for k in range(8)]
    write_sidecar(place, "negatives", negatives)
    return Dataset(place)


def test_every_sample_stands_beside_its_picture_in_a_page_of_bounded_size(tmp_path):
    dataset = large_pictures(tmp_path / "d", 60)
    quality(dataset, tmp_path / "q", samples=8)
    page = (tmp_path / "q" / "quality.html").read_text(encoding="utf-8")
    assert len(page) < 3_000_000
    samples = re.findall(r'<article><img src="data:image/(?:webp|jpeg);base64,([^"]+)".*?</article>', page, re.S)
    assert len(samples) == 8 * 8
    assert page.count('<del class="old">brown</del>') == 8 * 8 + 12 * 8  # further below stand twelve pictures with all their texts
    with Image.open(io.BytesIO(base64.b64decode(samples[0]))) as thumb:
        assert thumb.width / thumb.height == pytest.approx(1.5, abs=0.05)


def test_what_is_given_away_is_marked(folder, tmp_path):
    dataset = Dataset(folder)
    rows = []
    for key in dataset.keys("train"):
        caption = dataset.record(key).captions[0]
        rows.append(Negative(key, caption.id, "negation_plain", caption.text.replace("runs", "does not run")))
        rows.append(Negative(key, caption.id, "longer", caption.text.replace(" .", " there ."), ()))
    other = tmp_path / "other"
    other.mkdir()
    for name in ("manifest.json", "index.parquet"):
        (other / name).write_bytes((folder / name).read_bytes())
    (other / "shards").symlink_to(folder / "shards")
    write_sidecar(other, "negatives", rows)
    facts = quality(Dataset(other), tmp_path / "q", samples=1)
    for kind in ("negation_plain", "longer"):
        assert facts["blind"][kind]["shorter"]["share"] == 1.0
        assert facts["blind"][kind]["logistic"]["share"] == 1.0
        assert facts["blind"][kind]["unigram"]["share"] == 1.0
    assert (tmp_path / "q" / "quality.html").read_text().count("texts alone give it away") == 2


def test_nothing_to_look_at_is_said(tmp_path):
    with ShardWriter(tmp_path / "d") as writer:
        image = picture(0)
        writer.add(Record(content_key(image), "i.png", (24, 24), "train", None, (Caption("c", "a dog"),)), image)
    with pytest.raises(UserError, match=r"make some: wholegrain enrich .* --negatives"):
        quality(Dataset(tmp_path / "d"), tmp_path / "q")


def test_kinds_and_families_of_a_caption():
    captions = (
        Caption("a", "x"),
        Caption("b", "y"),
        Caption("n", "z", "negated", "word rules 3: negation_count of a (1/1 words); t; seed 0"),
    )
    rows = [
        Negative("k", c, kind, f"{kind}{c}")
        for c, kind in (("a", "object_being"), ("a", "object_place"), ("n", "negation_count"))
    ]
    negatives = {("k", c): [row for row in rows if row.caption == c] for c in "an"}
    found = count([Record("k", "", (1, 1), captions=captions)], negatives)
    assert (found.captions, found.covered) == (2, 1)
    assert (found.kinds_per_caption, found.families_per_caption) == (1.5, 1.0)
    assert found.captions_with["negation_count"] == 1


def test_the_logistic_rule_learns_from_other_images_alone():
    true = [f"a dog number {n}" for n in range(200)]
    false = [f"a cat number {n}" for n in range(200)]
    keys = [f"key{n}" for n in range(200)]
    assert logistic_wins(true, false, keys).mean() == 1.0
    assert logistic_wins(true, true, keys).mean() == 0.5
    assert logistic_wins(true, false, ["one"] * 200).mean() == 0.5  # nothing to learn from
    mixed = [b if n % 2 else a for n, (a, b) in enumerate(zip(true, false, strict=True))]
    other = [a if n % 2 else b for n, (a, b) in enumerate(zip(true, false, strict=True))]
    assert abs(logistic_wins(mixed, other, keys).mean() - 0.5) < 0.15


def test_diversity_of_equal_and_of_unlike_captions():
    same = [Record("k", "", (1, 1), captions=(Caption("a", "a red dog"), Caption("b", "A red dog .")))]
    unlike = [Record("k", "", (1, 1), captions=(Caption("a", "red dog"), Caption("b", "one cat")))]
    assert diversity(same).overlap == 1.0
    assert diversity(same).distinct_1 == 0.5
    assert diversity(unlike) == type(diversity(unlike))(1, 0.0, 1.0, 1.0)
    assert diversity([Record("k", "", (1, 1), captions=(Caption("a", "x"),))]).images == 0
