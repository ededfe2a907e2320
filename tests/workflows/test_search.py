"""Search: the right pictures come first, an index is brought up to date and not made anew, and nothing that breaks loses what is done."""

import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from colour_model import COLOURS, ColourModel
from PIL import ExifTags, Image

from wholegrain.data.listing import list_pictures
from wholegrain.errors import UserError
from wholegrain.evaluation.scores.whole_and_grain import WholeAndGrain
from wholegrain.features import ImageFeatures
from wholegrain.locks import locked
from wholegrain.workflows.embedder import Embedder
from wholegrain.workflows.search import SearchOptions, index, parts, search

OLD = time.time_ns() - 10**12


class Model(ColourModel):
    """Counts the pictures that it encodes, and stops after so many batches."""

    content_hash = "colours"

    def __init__(self, batches=1000):
        super().__init__()
        self.encoded, self.batches = 0, batches

    def encode_images(self, pixels_BCHW, needs=frozenset()):
        if "patches" not in needs:
            if self.batches == 0:
                raise KeyboardInterrupt
            self.batches -= 1
            self.encoded += len(pixels_BCHW)
        return super().encode_images(pixels_BCHW, needs)


class WithoutPatches(Model):
    def encode_images(self, pixels_BCHW, needs=frozenset()):
        return ImageFeatures(super().encode_images(pixels_BCHW).pooled_BD)


class Joint(Model):
    """Loves what is blue, whatever is asked."""

    score_needs = frozenset({"patches"})

    def score(self, image, text):
        return image.patches_BPD.mean(1)[:, 2:3].expand(-1, len(text.pooled_ND))


class Short(Model):
    def _tokens(self, texts):
        return SimpleNamespace(**{**vars(super()._tokens(texts)), "cut_N": torch.ones(len(texts))})


def photo(path, left, right=None, written=OLD):
    """Two halves, in two colours."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :16], pixels[:, 16:] = COLOURS[left], COLOURS[right or left]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "BMP")  # the same size for all
    os.utime(path, ns=(written, written))
    return path


@pytest.fixture
def album(tmp_path):
    folder = tmp_path / "my album"
    photo(folder / "a.bmp", "red")
    photo(folder / "Ägypten 2019" / "b c.bmp", "blue")
    photo(folder / "d.bmp", "green", "red")
    photo(folder / "e.bmp", "red")
    return folder


@pytest.fixture
def find(album, tmp_path):
    def find(query, k=10, model=None, **options):
        return search(model or Model(), album, query, k, options=SearchOptions(index=tmp_path / "index", **options))

    return find


def up_to_date(album, tmp_path, model):
    return index.bring_up_to_date(model, list_pictures(album), tmp_path / "index", batch=2)


def test_what_wholegrain_load_gives_is_searched_with(find):
    assert find("blue", model=Embedder(Model())).hits == find("blue").hits


def test_what_the_query_names_comes_first_and_equal_ones_in_the_order_of_their_names(find):
    found = find("something red, with a comma")
    assert [hit.name for hit in found.hits] == ["a.bmp", "e.bmp", "d.bmp", "Ägypten 2019/b c.bmp"]
    assert found.hits[0].score == pytest.approx(1.0)
    assert found.hits[2].score == pytest.approx(0.5**0.5, abs=1e-3)
    assert [hit.name for hit in find("blue", k=1).hits] == ["Ägypten 2019/b c.bmp"]


def test_the_same_search_twice_embeds_nothing_and_gives_the_same(find):
    first, model = find("red"), Model()
    second = find("red", model=model)
    assert first.hits == second.hits
    assert (first.index.new, second.index.new, model.encoded) == (4, 0, 1 - 1)


def test_only_what_is_new_or_changed_is_embedded_and_what_is_gone_is_dropped(album, tmp_path, find):
    find("red")
    photo(album / "new.bmp", "blue")
    photo(album / "e.bmp", "green", written=OLD + 5)
    (album / "a.bmp").unlink()
    model = Model()
    found = find("green", model=model)
    assert (found.index.new, found.index.changed, found.index.gone, model.encoded) == (1, 1, 1, 2)
    assert found.index.line == "4 pictures: 1 new, 1 changed, 1 gone"
    assert found.hits[0].name == "e.bmp"
    again = find("green")
    assert again.index.line == "4 pictures: none new"
    anew = index.bring_up_to_date(Model(), list_pictures(album), tmp_path / "other")
    assert [p.name for p in again.index.pictures] == [p.name for p in anew.pictures]
    assert torch.equal(again.index.vectors_ND, anew.vectors_ND)


def test_a_picture_with_a_new_time_and_the_old_content_is_not_embedded_again(album, find):
    find("red")
    os.utime(album / "a.bmp", ns=(OLD + 7, OLD + 7))
    model = Model()
    assert find("red", model=model).index.line == "4 pictures: none new"
    assert model.encoded == 0
    (stored,) = find("red").index.folder.glob("part-*")
    assert parts._read(stored).rows[0].changed == OLD + 7  # so that it is not in doubt the next time


def test_a_picture_that_is_written_twice_within_a_tick_is_seen(album, find):
    now = time.time_ns()
    photo(album / "a.bmp", "red", written=now)
    find("red")
    photo(album / "a.bmp", "blue", written=now)  # the same size, the same time
    found = find("blue")
    assert found.index.changed == 1
    assert "a.bmp" in [hit.name for hit in found.hits[:2]]


def test_what_cannot_be_read_is_listed_once_with_its_reason_and_the_rest_goes_on(album, find):
    (album / "broken.jpg").write_bytes(b"no picture")
    os.utime(album / "broken.jpg", ns=(OLD, OLD))
    first, model = find("red"), Model()
    assert len(first.hits) == 4
    assert [(name, why[:26]) for name, why in first.index.found] == [("broken.jpg", "cannot be decoded (not an ")]
    second = find("red", model=model)
    assert (second.index.found, model.encoded) == ((), 0)
    assert second.index.line == "4 pictures: none new, 1 cannot be read"
    shutil.copy(album / "a.bmp", album / "broken.jpg")
    assert find("red").index.line == "5 pictures: 1 changed"


def test_a_picture_that_may_not_be_read_is_read_as_soon_as_it_may(album, find, monkeypatch):
    from wholegrain.data import listing

    read = listing.read_bytes

    def refused(path, advice, *, most):
        raise UserError(f"{path} may not be read")

    monkeypatch.setattr(listing, "read_bytes", refused)
    with pytest.raises(UserError, match=r"none of the 4 pictures .* can be read \(the first: a.bmp .* may not be read\)"):
        find("red")
    monkeypatch.setattr(listing, "read_bytes", read)
    assert len(find("red").hits) == 4


def test_an_interrupted_index_goes_on_where_it_was(album, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        up_to_date(album, tmp_path, Model(batches=1))
    model = Model()
    found = up_to_date(album, tmp_path, model)
    assert (found.new, model.encoded, len(found.pictures)) == (2, 2, 4)


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "other"])
def test_a_damaged_index_is_made_again(album, tmp_path, damage):
    whole = up_to_date(album, tmp_path, Model())
    (path,) = whole.folder.glob("part-*")
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-5], "changed": data[:-1] + b"\x55", "emptied": b"", "other": b"{}" * 100}[damage])
    again = up_to_date(album, tmp_path, Model())
    assert (again.damaged, again.new) == (1, 4)
    assert torch.equal(again.vectors_ND, whole.vectors_ND)
    assert up_to_date(album, tmp_path, Model()).damaged == 0


def test_while_one_process_indexes_others_read_but_do_not_write(album, tmp_path):
    current = up_to_date(album, tmp_path, Model())
    with locked(current.folder, "indexing pictures"):
        assert torch.equal(up_to_date(album, tmp_path, Model()).vectors_ND, current.vectors_ND)
        photo(album / "new.bmp", "blue")
        with pytest.raises(UserError, match="in use"):
            up_to_date(album, tmp_path, Model())
    assert up_to_date(album, tmp_path, Model()).new == 1


def test_large_indices_lie_in_parts_of_which_only_those_that_change_are_written(album, tmp_path, monkeypatch):
    for module in (parts, index):
        monkeypatch.setattr(module, "MOST_ROWS", 3)
    for n in range(7):
        photo(album / f"n{n}.bmp", list(COLOURS)[n % 3])
    first = up_to_date(album, tmp_path, Model())
    written = {path: path.stat().st_mtime_ns for path in sorted(first.folder.glob("part-*"))}
    assert [len(parts._read(path).rows) for path in written] == [3, 3, 3, 2]
    (album / "n6.bmp").unlink()
    photo(album / "n8.bmp", "blue")
    second = up_to_date(album, tmp_path, Model())
    changed = [path.stat().st_mtime_ns != when for path, when in written.items()]
    assert changed.count(True) == 1
    assert [picture.name for picture in second.pictures] == [p.name for p in list_pictures(album).pictures]
    assert sorted(path.name for path in second.folder.glob("part-*")) == [path.name for path in written]


def test_names_of_any_bytes_are_kept(tmp_path):
    try:
        os.rename(photo(tmp_path / "album" / "a.bmp", "red"), os.fsencode(tmp_path / "album") + b"/\xff \n.bmp")
    except OSError:
        pytest.skip("the file system wants text for names")
    first = up_to_date(tmp_path / "album", tmp_path, Model())
    second = up_to_date(tmp_path / "album", tmp_path, Model())
    assert os.fsencode(second.pictures[0].name) == b"\xff \n.bmp"
    assert (first.new, second.new) == (1, 0)


def test_another_model_has_another_index(album, tmp_path):
    other = Model()
    other.content_hash = "others"
    assert up_to_date(album, tmp_path, Model()).folder != up_to_date(album, tmp_path, other).folder


def test_whole_and_grain_shares_the_vectors_of_its_model_and_orders_them_anew(find):
    plain, model = find("a red cup and a green cup"), Model()
    grain = find("a red cup and a green cup", model=WholeAndGrain(model))
    assert (grain.index.folder, model.encoded) == (plain.index.folder, 0)
    assert grain.scored_by == "whole and grain 1:0.1"
    assert grain.hits[0].name == "d.bmp"
    assert [hit.score for hit in grain.hits] == sorted((hit.score for hit in grain.hits), reverse=True)


def test_the_index_lies_in_the_users_cache_folder(album, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("WHOLEGRAIN_CACHE", raising=False)
    before = sorted(album.rglob("*"))
    found = search(Model(), album, "red")
    assert found.index.folder.parent == tmp_path / "cache" / "wholegrain" / "search"
    assert sorted(album.rglob("*")) == before
    monkeypatch.setenv("WHOLEGRAIN_CACHE", str(tmp_path / "own"))
    assert index.index_home() == tmp_path / "own" / "search"


def test_a_joint_score_orders_the_shortlist_and_nothing_else(find):
    assert find("red", model=Joint(), shortlist=4).hits[0].name == "Ägypten 2019/b c.bmp"
    few = find("red", k=2, model=Joint(), shortlist=2)
    assert sorted(hit.name for hit in few.hits) == ["a.bmp", "e.bmp"]
    assert few.hits[0].cosine == pytest.approx(1.0)
    assert few.scored_by == "joint score"


def test_a_query_of_several_phrases_says_where_each_was_found(find):
    found = find("a green cup and a red cup", k=10)
    assert found.phrases == ("a green cup", "a red cup")
    hit = next(hit for hit in found.hits if hit.name == "d.bmp")
    assert hit.maps_QRC.shape == (2, 8, 8)
    assert [where.split()[-1] for where in hit.where] == ["left", "right"]
    assert find("red").phrases == ()
    assert find("red", maps=True).phrases == ("red",)


def test_a_photo_is_searched_upright(album, find):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3  # held upside down
    Image.open(photo(album / "f.bmp", "red", "green")).save(album / "f.png", exif=exif)
    (album / "f.bmp").unlink()
    found = find("a green thing and a red thing")
    assert {hit.name: hit.where for hit in found.hits}["f.png"] == {hit.name: hit.where for hit in found.hits}["d.bmp"]


def test_a_model_without_patches_searches_and_says_why_it_shows_no_places(find):
    found = find("a green cup and a red cup", model=WithoutPatches())
    assert found.hits[0].maps_QRC is None
    assert found.notes[0].startswith("where phrases were found is not shown: the model gives no patch vectors")


def test_a_picture_finds_what_looks_like_it(album, find):
    for query in (album / "d.bmp", Image.open(album / "d.bmp"), np.asarray(Image.open(album / "d.bmp"))):
        hits = find(query).hits
        assert hits[0].name == "d.bmp"
        assert hits[0].score == pytest.approx(1.0)


def test_a_query_that_was_cut_is_said(find):
    assert find("red", model=Short()).notes == (
        "the query is longer than the text that the model reads, and its end was cut off",
    )
    assert find("red").notes == ()


@pytest.mark.parametrize(
    ("query", "k", "said"), [(" ", 5, "the query is empty"), ("red", 0, "k is 0"), (np.zeros((3, 3)), 5, "is an array of float64")]
)
def test_what_cannot_be_asked_is_said_before_anything_is_embedded(find, tmp_path, query, k, said):
    with pytest.raises(UserError, match=said):
        find(query, k)
    assert not (tmp_path / "index").exists()


def test_vectors_that_are_not_finite_are_refused_and_not_kept(find):
    class Broken(Model):
        def encode_images(self, pixels_BCHW, needs=frozenset()):
            return ImageFeatures(torch.full((len(pixels_BCHW), 3), torch.nan))

    with pytest.raises(UserError, match="not finite"):
        find("red", model=Broken())
    assert find("red").index.new == 4


def test_the_contact_sheet_is_one_page_without_a_network(find, tmp_path):
    found = find("a green cup and a <b>red cup</b>")
    page = found.to_html(tmp_path / "new" / "sheet.html", "colours").read_text()
    assert page.count('class="photo"') == 4
    assert page.count('class="map"') == 4 * len(found.phrases) > 4
    assert "<b>red" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "4 of 4 pictures" in page


def test_a_sheet_of_many_pictures_stays_small(tmp_path, monkeypatch):
    from wholegrain.report import search_sheet

    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    one = search_sheet.Found("n.jpg", 0.5, lambda: noise, None, (), lambda w, h: (0, 0, w, h))
    head = search_sheet.SheetHead("noise", noise, "facts", (), ())
    monkeypatch.setattr(search_sheet, "MOST_BYTES", 200_000)
    page = search_sheet.write_search_sheet(tmp_path / "sheet.html", head, [one] * 90)
    assert page.stat().st_size < 300_000
    assert "pictures are left out of this page" in page.read_text()
