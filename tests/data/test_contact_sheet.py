import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from wholegrain.cli.inspect import inspect, print_manifest
from wholegrain.data.dataset import Dataset
from wholegrain.data.prepare import PrepareOptions, prepare
from wholegrain.data.record import Caption, Negative, Record, Region, caption_id, content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar
from wholegrain.report.contact_sheet import mark_edits, write_contact_sheet


class Page(HTMLParser):
    """Counts tags, gathers text, and minds that what is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.open, self.words = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture
def folder(tmp_path):
    with ShardWriter(tmp_path / "d", manifest={"source": "here"}) as writer:
        for n in range(9):
            pixels = np.random.default_rng(n).integers(0, 256, (150, 200, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG")
            key, text = content_key(file.getvalue()), f"a <red> cup {n}"
            regions = (Region((10, 20, 50, 60), "the cup & saucer"),) if n == 0 else ()
            record = Record(
                key, key + ".jpg", (200, 150), ["train", "test"][n % 2], None, (Caption(caption_id(text), text),), regions
            )
            writer.add(record, file.getvalue())
            if n == 0:
                negatives = [Negative(key, caption_id(text), "colour", "a <blue> cup 0", ((3, 6, "red", "blue"),))]
    write_sidecar(tmp_path / "d", "negatives", negatives)
    return tmp_path / "d"


def test_the_page_shows_pictures_captions_boxes_and_negatives(folder):
    text = write_contact_sheet(Dataset(folder), folder / "x.html", per_split=5).read_text()
    page = Page(text)
    assert page.count("img") == 9  # five of train, all four of test
    assert all(link.startswith("data:image/") for link in page.links)
    assert not re.search(r"https?://", text)
    assert all(f"a <red> cup {n}" in page.words for n in range(9))
    ((_, box),) = [tag for tag in page.tags if tag[0] == "rect"]
    assert [float(box[name]) for name in ("x", "y", "width", "height")] == [10, 20, 40, 40]
    assert "the cup & saucer" in page.words
    assert '<span class="old">red</span>' in text
    assert '<span class="new">blue</span>' in text
    assert not list(folder.glob("*.part"))


def test_the_seed_chooses(folder):
    pages = [write_contact_sheet(Dataset(folder), folder / "x.html", per_split=2, seed=s).read_text() for s in (0, 0, 1, 2)]
    assert pages[0] == pages[1]
    assert len(set(pages)) > 1


def test_edits_are_marked_only_if_they_fit():
    true = "a red cup left of a pot"
    swap = Negative("k", "c", "swap", "a pot left of a cup red", ())
    assert mark_edits(true, swap) == [("new", swap.text)]
    wrong = Negative("k", "c", "swap", "a blue cup left of a pot", ((0, 3, "red", "blue"),))
    assert mark_edits(true, wrong) == [("new", wrong.text)]
    two = Negative("k", "c", "x", "a blue cup right of a pot", ((10, 14, "left", "right"), (2, 5, "red", "blue")))
    pieces = mark_edits(true, two)
    assert "".join(t for m, t in pieces if m != "old") == two.text
    assert "".join(t for m, t in pieces if m != "new") == true


def test_faults_reach_table_and_page(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for n, colour in enumerate(("red", "green", "red")):
        Image.new("RGB", (9, 9), colour).save(tmp_path / "in" / f"{n}.png")
    (tmp_path / "in" / "3.png").write_bytes(b"junk")
    rows = "0.png,[/b] one,train\n1.png,two,train\n2.png,one,test\n3.png,x,train\n1.png,two,val\n"
    (tmp_path / "in" / "a.csv").write_text("image,caption,split\n" + rows)
    prepare(tmp_path / "in" / "a.csv", tmp_path / "d", options=PrepareOptions(max_broken=0.5, progress=False))
    inspect(Path(tmp_path / "d"))
    said = " ".join(capsys.readouterr().out.split())
    page = Page((tmp_path / "d" / "contact_sheet.html").read_text())
    assert "broken images" in said
    assert "equal images in several splits" in said
    assert "1 broken images" in page.words
    assert "2 images were in several splits" in page.words
    assert "not an image of a known kind" in page.words


def test_parts_that_a_manifest_lacks_are_left_out(folder, tmp_path):
    dataset, whole = Dataset(folder), {"broken": {"count": 0, "listed": []}, **Dataset(folder).manifest}
    parts = ["broken", "duplicates", "images_without_captions", "empty_captions", "captions", "roles"]
    lacking = [{name: part for name, part in whole.items() if name != left} for left in parts]
    lacking += [{**whole, "duplicates": {}}, {**whole, "duplicates": {"captions": {"inside_splits": 0, "across_splits": 0, "listed": []}}}]
    for manifest in lacking:
        dataset.manifest = manifest
        assert "</html>" in write_contact_sheet(dataset, tmp_path / "sheet.html").read_text(encoding="utf-8")


def test_words_that_look_like_markup_are_printed_as_they_are():
    manifest = {"source": "[/nonsense]", "splits": {"train": {"images": 1, "captions": 2}}, "roles": {"[red]": 2}}
    file = io.StringIO()
    print_manifest(manifest, Console(file=file, markup=False, width=100))
    assert "[/nonsense]" in file.getvalue()
    assert "[red]" in file.getvalue()
