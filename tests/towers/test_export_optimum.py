"""The layout of optimum and transformers.js: three graphs, run by onnxruntime at sizes that they were not made with."""

import pytest
import torch
from read_models import of_open_clip
from tiny_models import TEXTS, pixels, save_transformers, transformers_clip
from torch.nn.functional import normalize

from wholegrain.errors import UserError
from wholegrain.towers import HeadConfig, convert_head, load_model
from wholegrain.towers.export.card import Facts, card
from wholegrain.towers.export.comparison import distance
from wholegrain.towers.export.export import export_model

transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
GRAPHS = ("model", "text_model", "vision_model")
pytestmark = pytest.mark.xdist_group("optimum")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A CLIP of one layer a tower, the folder that it is exported to, its graphs, and how far off they are."""
    folder = tmp_path_factory.mktemp("optimum")
    one = {"num_hidden_layers": 1, "hidden_act": "gelu"}
    model = load_model(save_transformers(transformers_clip(text_config=one, vision_config=one), folder / "clip"))
    distances = export_model(model, folder / "out", "optimum")
    graphs = {name: onnxruntime.InferenceSession(str(folder / "out/onnx" / f"{name}.onnx")) for name in GRAPHS}
    return model, folder / "out", graphs, distances


def axes(values):
    return {value.name: value.shape for value in values}


def run(session, **inputs):
    given = {name: value.numpy() for name, value in inputs.items()}
    return dict(zip(axes(session.get_outputs()), map(torch.from_numpy, session.run(None, given)), strict=True))


@pytest.mark.slow
def test_names_and_axes_are_those_of_optimum(exported):
    _, folder, graphs, distances = exported
    assert max(distances.values()) <= 1e-5
    assert set(distances) == {"logits per image", "logits per text", "text embeds", "image embeds", "text model", "vision model"}
    texts, images = ["text_batch_size", "sequence_length"], ["image_batch_size", 3, 32, 32]
    whole, read, seen = graphs.values()
    assert axes(whole.get_inputs()) == {"input_ids": texts, "pixel_values": images, "attention_mask": texts}
    assert axes(read.get_inputs()) == {"input_ids": texts, "attention_mask": texts}
    assert axes(seen.get_inputs()) == {"pixel_values": images}
    scores = {"logits_per_image": ["image_batch_size", "text_batch_size"], "logits_per_text": ["text_batch_size", "image_batch_size"]}
    vectors = {"text_embeds": ["text_batch_size", 20], "image_embeds": ["image_batch_size", 20]}
    assert axes(whole.get_outputs()) == scores | vectors
    assert axes(read.get_outputs()) == {"text_embeds": vectors["text_embeds"]}
    assert axes(seen.get_outputs()) == {"image_embeds": vectors["image_embeds"]}
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"} | {f"onnx/{name}.onnx" for name in GRAPHS}
    config = transformers.AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.architectures) == ("clip", ["CLIPModel"])
    assert all(b"site-packages" not in (folder / "onnx" / f"{name}.onnx").read_bytes() for name in GRAPHS)


@pytest.mark.slow
@pytest.mark.parametrize(("images", "texts"), [(1, 2), (7, 3)])
def test_any_number_and_length(exported, images, texts):
    model, folder, graphs, _ = exported
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = dict(tokenizer(TEXTS[:texts], padding="max_length", max_length=12, return_tensors="pt"))
    seen = pixels(count=images)
    tokens = model.tokenizer.encode(TEXTS[:texts])
    with torch.no_grad():
        image_BD = model.encode_images(seen).pooled_BD
        text_ND = model.encode_texts(tokens.tokens_NL, tokens.length_N).pooled_ND
        logits_BN = normalize(image_BD, dim=-1) @ normalize(text_ND, dim=-1).T * model.scale
    given = model.preprocess.normalise(seen)
    whole = run(graphs["model"], pixel_values=given, **rows)
    assert distance(whole["logits_per_image"], logits_BN) < 1e-5
    assert torch.equal(whole["logits_per_text"], whole["logits_per_image"].T)
    assert distance(whole["text_embeds"], normalize(text_ND, dim=-1)) < 1e-5
    assert distance(whole["image_embeds"], normalize(image_BD, dim=-1)) < 1e-5
    assert distance(run(graphs["text_model"], **rows)["text_embeds"], text_ND) < 1e-5
    assert distance(run(graphs["vision_model"], pixel_values=given)["image_embeds"], image_BD) < 1e-5
    short = {name: value[:1, : int(tokens.length_N[0])] for name, value in rows.items()}
    assert distance(run(graphs["text_model"], **short)["text_embeds"], text_ND[:1]) < 1e-5


@pytest.mark.parametrize("to", ["transformers", "optimum"])
def test_what_transformers_cannot_hold_is_refused_in_its_sentence(to, tmp_path):
    model = convert_head(of_open_clip(tmp_path), HeadConfig("branches", branches=2))
    with pytest.raises(UserError, match=r"^transformers has no place for its 2 branches; export to onnx or wholegrain, or give --approximate$"):
        export_model(model, tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_the_card_says_how_both_load_it():
    text = card(Facts("mine", "optimum", "me/mine", on_hub=True, differences={"text embeds": 1e-7}))
    assert "library_name: transformers.js" in text
    assert 'ORTModelForZeroShotImageClassification.from_pretrained("me/mine")' in text
    assert '```js\nimport { pipeline } from "@huggingface/transformers";' in text
    assert 'pipeline("zero-shot-image-classification", "me/mine", { dtype: "fp32" });' in text
    assert "read back with onnxruntime" in text
