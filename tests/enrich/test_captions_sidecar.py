"""Generated captions: further captions of their records, for everything that reads records."""

import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_training import make_dataset

from wholegrain.data.dataset import Dataset
from wholegrain.data.mixture import Mixture
from wholegrain.data.record import GeneratedCaption, caption_id, generated_id
from wholegrain.data.sidecars import SIDECARS, made_by, table_of, write_sidecar, write_tables
from wholegrain.errors import UserError
from wholegrain.objectives.schema import CaptionDraw, DataRecipe
from wholegrain.training.loading.draw import draw_texts
from wholegrain.training.loading.loader import names_of


def written(key, role, text, source="model detail@1 seed=0"):
    return GeneratedCaption(key, generated_id(text, role, source), role, text, source, "model", role, "1")


@pytest.fixture
def data(tmp_path):
    dataset = make_dataset(tmp_path / "d", 12)
    assert dataset.content_hash  # read before a sidecar is written, as the next line
    assert len(dataset.generated) == 0
    return tmp_path / "d", dataset.keys("train"), dataset


def test_a_record_shows_them_behind_its_own(data):
    folder, keys, before = data
    rows = [written(key, role, f"{role} of {n}") for role in ("nouns", "background") for n, key in enumerate(keys[:5])]
    write_sidecar(folder, "captions", rows)
    dataset = pickle.loads(pickle.dumps(Dataset(folder)))
    for n, key in enumerate(keys[:5]):
        record, own = dataset.record(key), before.record(key)
        assert record.captions[:3] == own.captions
        assert [(c.role, c.text) for c in record.captions[3:]] == [
            ("nouns", f"nouns of {n}"),
            ("background", f"background of {n}"),
        ]
        assert {c.source for c in record.captions[3:]} == {"model detail@1 seed=0"}
        assert dataset.original(key) == own
    assert dataset.record(keys[5]) == before.record(keys[5])
    assert len(dataset.generated) == 10
    assert dataset.roles == {"background": 5, "detail": 24, "nouns": 5, "style": 24, "web": 24}
    assert before.roles == {"detail": 24, "style": 24, "web": 24}
    assert dataset.content_hash != before.content_hash
    assert dataset.records_hash == before.records_hash


def test_ids_never_meet_those_of_the_record(data):
    folder, keys, before = data
    text = before.record(keys[0]).captions[0].text
    same = [written(keys[0], role, text) for role in ("nouns", "style")] + [written(keys[0], "nouns", text, "other")]
    ids = [row.caption for row in same]
    assert len({caption_id(text), *ids}) == 4
    write_sidecar(folder, "captions", same)
    found = Dataset(folder).record(keys[0]).captions
    assert len({caption.id for caption in found}) == len(found) == 6


def test_recipes_find_the_roles_and_draw_them(data):
    folder, keys, before = data
    recipe = DataRecipe(
        captions=(CaptionDraw(("nouns",)), CaptionDraw(("long",), 4, sentences=(1, 1), name="crop", optional=True))
    )
    with pytest.raises(UserError, match="asks for the roles nouns"):
        names_of(before, recipe)
    rows = [written(key, "nouns", f"thing {n}") for n, key in enumerate(keys)]
    write_sidecar(folder, "captions", rows + [written(key, "long", "A dog runs. A cat sits. The sky is red.") for key in keys])
    dataset = Dataset(folder)
    names = names_of(dataset, recipe)
    assert names.roles == ("crop", "nouns")
    roles = {name: n for n, name in enumerate(names.roles)}
    texts = draw_texts(dataset.record(keys[3]), {}, recipe, roles, {}, np.random.default_rng(0))
    assert texts[0].text == "thing 3"
    assert {text.text for text in texts[1:]} == {"A dog runs", "A cat sits", "The sky is red"}
    assert len(texts) == 5
    mixture = Mixture([before, dataset])
    assert mixture.roles["nouns"] == 12
    assert names_of(mixture, recipe).roles == ("crop", "nouns")
    assert mixture.original(mixture.keys("train")[-1]).captions != mixture.record(mixture.keys("train")[-1]).captions


def test_the_file_is_the_same_however_rows_are_cut(data, monkeypatch):
    folder, keys, _ = data
    monkeypatch.setattr("wholegrain.data.sidecars._GROUP", 7)
    rows = [written(keys[n % 12], "nouns", f"thing {n}") for n in range(21)]
    write_sidecar(folder, "captions", rows)
    whole = (folder / "captions.parquet").read_bytes()
    for size in (1, 5, 7, 21):
        tables = [table_of("captions", rows[n : n + size]) for n in range(0, 21, size)]
        assert write_tables(folder, "captions", tables) == 21
        assert (folder / "captions.parquet").read_bytes() == whole
    assert made_by(folder / "captions.parquet") is None
    write_tables(folder, "captions", [table_of("captions", rows)], {"stages": ["x"]})
    assert made_by(folder / "captions.parquet") == {"stages": ["x"]}
    assert pq.read_schema(folder / "captions.parquet").equals(SIDECARS["captions"])
