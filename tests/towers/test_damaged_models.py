"""Models' folders that are damaged, or ask for more than there is: one sentence, or the right model, and soon."""

import json
import os
import pickle
import re
import resource
from pathlib import Path

import pytest
import torch
from damage import damaged_files, damaged_json_files, met_badly, soon
from house_models import TOKENIZER, open_clip_folder, outputs, small
from safetensors.torch import load_file, save_file
from tiny_models import save_transformers, transformers_clip

from wholegrain.errors import UserError
from wholegrain.towers import HeadConfig, convert_head, load_model, save_model
from wholegrain.towers.positions import fitted


def without_digests(folder):
    """As models were saved before they had digests."""
    record = json.loads((folder / "model.json").read_text())
    del record["weights"], record["files"]
    (folder / "model.json").write_text(json.dumps(record))
    return folder


def saved(folder):
    save_model(small(), folder)
    return folder


def saved_open_clip(folder):
    open_clip_folder(folder.with_name("theirs"))
    save_model(load_model(folder.with_name("theirs")), folder)
    return without_digests(folder)


def of_transformers(folder):
    pytest.importorskip("transformers")
    return save_transformers(transformers_clip(), folder)


def of_open_clip(folder):
    open_clip_folder(folder)
    return folder


MAKERS = {
    "saved": saved,
    "old": lambda folder: without_digests(saved(folder)),
    "saved open_clip": saved_open_clip,
    "open_clip": of_open_clip,
    "transformers": of_transformers,
}


@pytest.mark.parametrize(("kind", "every"), [("saved", 1), ("old", 5), ("open_clip", 5), ("transformers", 17)])
def test_damaged_files_give_a_sentence_or_the_model(kind, every, tmp_path):
    folder = MAKERS[kind](tmp_path / "m")
    whole = outputs(load_model(folder))

    def read(copy):
        found = outputs(load_model(copy))
        if kind == "saved":
            assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))

    cases = damaged_files(folder, every=every)
    bad = [found for said, copy in cases if (found := met_badly(said, read, copy))]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(("kind", "every"), [("saved", 17), ("old", 13), ("saved open_clip", 61), ("open_clip", 13), ("transformers", 197)])
def test_wrong_values_give_a_sentence_or_a_model_that_works(kind, every, tmp_path):
    folder = MAKERS[kind](tmp_path / "m")
    cases = damaged_json_files(folder, lambda path: path.name != "tokenizer.json", every)
    bad = [said for what, copy in cases if (said := met_badly(what, lambda place: outputs(load_model(place)), copy))]
    assert not bad, "\n".join(bad)


@pytest.fixture
def little_memory():
    """Fails whoever takes 8 GiB more than there is now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 8 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def changed(folder, name, path, value):
    record = json.loads((folder / name).read_text())
    spot = record
    for key in path[:-1]:
        spot = spot[key]
    spot[path[-1]] = value
    (folder / name).write_text(json.dumps(record))


@pytest.mark.parametrize("value", [0, -1, 10**6, 10**9, 10**12])
@pytest.mark.parametrize(
    ("kind", "name", "path"),
    [
        ("old", "model.json", ("image", "small", "patch")),
        ("old", "model.json", ("image", "small", "image_layers")),
        ("old", "model.json", ("image", "small", "image_width")),
        ("old", "model.json", ("image", "small", "image_size")),
        ("old", "model.json", ("text", "vocab_size")),
        ("old", "model.json", ("head", "widths", "shared")),
        ("old", "model.json", ("preprocess", "size")),
        ("open_clip", "open_clip_config.json", ("model_cfg", "vision_cfg", "layers")),
        ("open_clip", "open_clip_config.json", ("model_cfg", "vision_cfg", "width")),
        ("open_clip", "open_clip_config.json", ("model_cfg", "text_cfg", "vocab_size")),
        ("open_clip", "open_clip_config.json", ("model_cfg", "text_cfg", "context_length")),
        ("open_clip", "open_clip_config.json", ("model_cfg", "embed_dim")),
    ],
)
def test_sizes_are_held_against_the_weights_before_anything_is_made(kind, name, path, value, tmp_path, little_memory):
    folder = MAKERS[kind](tmp_path / "m")
    changed(folder, name, path, value)
    with soon(3), pytest.raises(UserError, match=re.escape(str(folder))):
        load_model(folder)


@pytest.mark.parametrize("key", ["vision_config.hidden_size", "text_config.vocab_size", "text_config.num_hidden_layers", "projection_dim"])
def test_sizes_of_transformers_likewise(key, tmp_path, little_memory):
    for value in (0, 10**5, 10**9):
        folder = of_transformers(tmp_path / f"m{value}")
        changed(folder, "config.json", key.split("."), value)
        with soon(3), pytest.raises(UserError, match=re.escape(str(folder))):
            load_model(folder)


@pytest.mark.parametrize(
    "spec",
    [
        "small:patch=0", "small:image_layers=0", "small:image_layers=1000000000", "small:image_width=1048576", "small:heads=0",
        "small:image_size=4096,patch=1,stem=patch", "small:image_size=1000000", "small:context=1000000000", "small:width=\u00b2",
        "small:text_layers=" + "9" * 5000, "small:image_width=16384,image_layers=200,heads=1",
    ],
)  # fmt: skip
def test_sizes_of_small_are_bounded(spec, little_memory):
    with soon(3), pytest.raises(UserError, match=r"^small"):
        load_model(spec, tokenizer=TOKENIZER)


@pytest.mark.parametrize("asked", [{"context": 10**9}, {"context": -1}, {"image_size": 10**6}, {"image_size": 0}])
def test_contexts_and_picture_sizes_are_bounded(asked, little_memory):
    with soon(2), pytest.raises(UserError, match=f"{next(iter(asked))} is"):
        fitted(small(), **asked)


@pytest.mark.parametrize(
    "settings",
    [{"kind": "branches", "branches": 10**9}, {"kind": "branches", "branches": 0}, {"kind": "mgca", "prototypes": 10**9},
     {"kind": "llip", "mixtures": 10**8}, {"kind": "sparc", "hidden": 10**9}, {"kind": "fusion", "layers": 10**9},
     {"kind": "fusion", "fusion_width": 10**9}, {"kind": "sparc", "hidden": "wide"}, {"kind": "branches", "noise": float("nan")}],
)  # fmt: skip
def test_settings_of_heads_are_bounded(settings, little_memory):
    with soon(2), pytest.raises(UserError, match=rf"head_settings\.{list(settings)[1]}"):
        convert_head(small(), HeadConfig(**settings))


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_model(small(), tmp_path / name)
    save_model(load_model(tmp_path / "a"), tmp_path / "c")
    files = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}
    assert len(files) == 4
    for name in ("b", "c"):
        assert {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} == files


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    model = small()
    with torch.no_grad():
        model.head.image.weight[0, 0] = float("nan")
    save_model(model, tmp_path / "m")
    with pytest.raises(UserError, match=r"not a finite number \(head\.image\.weight\)"):
        load_model(tmp_path / "m")


def test_weights_of_another_type_or_with_one_more_or_less_are_refused_by_name(tmp_path):
    folder = without_digests(saved(tmp_path / "m"))
    file = folder / "model.safetensors"
    mark, state = json.loads((folder / "model.json").read_text())["mark"], load_file(file)
    name = "head.image.weight"
    for harmed, words in (
        ({**state, name: state[name].int()}, f"weight {name} is of the type I32"),
        ({**state, "more": torch.zeros(1)}, "has a further weight more"),
        ({key: value for key, value in state.items() if key != name}, f"lacks weight {name}"),
        ({**state, name: state[name][:2].contiguous()}, f"the weight {name} has the shape"),
    ):
        save_file(harmed, file, metadata={"mark": mark})
        with pytest.raises(UserError, match=words):
            load_model(folder)


def test_a_pickle_under_the_name_of_safetensors_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for kind, name in (("saved", "model.safetensors"), ("open_clip", "open_clip_model.safetensors"), ("transformers", "model.safetensors")):
        folder = MAKERS[kind](tmp_path / kind.replace(" ", "_"))
        (folder / name).write_bytes(pickle.dumps({"x": Trap()}))
        with pytest.raises(UserError):
            load_model(folder)
    assert not os.path.exists(tmp_path / "sprung")
