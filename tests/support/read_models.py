"""Models as read from other libraries' folders."""

from house_models import open_clip_folder
from tiny_models import save_transformers, transformers_clip, transformers_siglip

from wholegrain.towers import load_model


def of_open_clip(tmp_path, spec="{}", **text):
    folder = tmp_path / "oc"
    if not folder.exists():
        open_clip_folder(folder, **text)
    return load_model(spec.format(folder))


def of_transformers(tmp_path, kind="clip"):
    gelu = {"text_config": {"hidden_act": "gelu"}, "vision_config": {"hidden_act": "gelu"}}
    theirs = transformers_clip(**gelu) if kind == "clip" else transformers_siglip(**gelu)
    return load_model(save_transformers(theirs, tmp_path / kind))
