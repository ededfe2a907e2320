"""In peft: base and adapters of a run are the trained model. Left out where peft is not installed."""

import pytest
import torch
from house_models import open_clip_folder
from tiny_training import make_dataset, make_recipe, train

from wholegrain.towers import load_model
from wholegrain.towers.export.comparison import Sample, distance
from wholegrain.towers.export.export import export_model
from wholegrain.workflows.run_adapters import adapters_of

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--model.lora.towers", '["text"]', "--teacher.kind", "ema", "--teacher.keep", "teacher")])
def test_peft_loads_adapters_and_merges_them(options, tmp_path):
    open_clip_folder(tmp_path / "base")
    recipe = make_recipe("clip", "--model.lora.rank", "2", "--optimiser.lr", "0.03", "--optimiser.steps", "3", *options)
    train(recipe, make_dataset(tmp_path / "photos"), load_model(tmp_path / "base"), tmp_path / "run", device="cpu", quiet=True)
    model = load_model(tmp_path / "run")
    adapters, found = adapters_of(tmp_path / "run", model)
    assert found == "as trained, from checkpoint step-00000003"
    export_model(model, tmp_path / "out", "peft", adapters=adapters)
    export_model(model, tmp_path / "whole", "transformers")
    base = transformers.CLIPModel.from_pretrained(tmp_path / "out", subfolder="base")  # as the card says
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()
    sample = Sample.of(model)
    pixels = model.preprocess.normalise(sample.pixels_BCHW)
    with torch.no_grad():
        seen = theirs.get_image_features(pixel_values=pixels).pooler_output
        assert distance(seen, model.encode_images(sample.pixels_BCHW).pooled_BD) < 1e-5
        bare = transformers.CLIPModel.from_pretrained(tmp_path / "out/base").eval()
        assert options or distance(bare.get_image_features(pixel_values=pixels).pooler_output, seen) > 1e-3
    merged, whole = theirs.merge_and_unload().state_dict(), transformers.CLIPModel.from_pretrained(tmp_path / "whole").state_dict()
    assert merged.keys() == whole.keys()
    assert all(distance(merged[name].float(), whole[name].float()) < 1e-6 for name in whole)
    assert peft.PeftConfig.from_pretrained(tmp_path / "out").r == 2
