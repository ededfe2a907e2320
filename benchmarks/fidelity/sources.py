"""Which released code is compared, at which commit."""

from __future__ import annotations

from originals import Original

OPEN_CLIP = Original(
    "mlfoundations/open_clip", "89fb801f1e6087880e951fc8354b8a2077b79c6d", ("src/open_clip/loss.py",), "loss", "src/open_clip"
)
NEG_CLIP = Original(
    "vinid/neg_clip", "e680f8e44ab9f081f62094232d8ee3b77f8574f7", ("src/open_clip/loss.py",), "loss", "src/open_clip"
)
CE_CLIP = Original(
    "lezhang7/Enhance-FineGrained",
    "ef87eb7edc63aa39563f110cec49d95c307fc51a",
    ("src/open_clip/loss.py",),
    "loss",
    "src/open_clip",
)
CE_CLIP_FEBRUARY = Original(CE_CLIP.repository, "2d07821", CE_CLIP.paths, "loss", CE_CLIP.root)  # 3 February 2024
CE_CLIP_MARCH = Original(CE_CLIP.repository, "b8a5244", CE_CLIP.paths, "loss", CE_CLIP.root)  # 8 March 2024
CE_CLIP_FIRST = Original(CE_CLIP.repository, "cfdb1b2", CE_CLIP.paths, "loss", CE_CLIP.root)  # 26 June 2023
TSVLC = Original(
    "SivanDoveh/TSVLC", "90b18e7f7abc6ee867cc94893c6eb221ff6a16c5", ("src/open_clip/loss.py",), "loss", "src/open_clip"
)
FSC_CLIP = Original(
    "ytaek-oh/fsc-clip",
    "604015db3f009a8f7485f1fb7e21d8343c67664a",
    ("src/training/losses/loss.py",),
    "loss",
    "src/training/losses",
)
DEGLA = Original(
    "xiaoxing2001/DeGLA", "1c5e960644d885203005001958fee82771bd800f", ("src/open_clip/loss.py",), "loss", "src/open_clip"
)
HOLISTIC = Original(
    "anakin-skywalker-Joseph/Holistic-CLIP",
    "67c84b1ad0476dc4337a35263064b5e90c2292a3",
    ("src_cls/open_clip/loss_modify.py",),
    "loss_modify",
    "src_cls/open_clip",
    ("ipdb",),
)
HOLISTIC_TOWER = Original(
    HOLISTIC.repository,
    HOLISTIC.commit,
    tuple(f"src_cls/open_clip/model/{name}.py" for name in ("multi_cls_transformer", "utils", "pos_embed")),
    "model.multi_cls_transformer",
    "src_cls/open_clip",
    ("ipdb",),
)
DREAMLIP = Original(
    "zyf0619sjtu/DreamLIP", "d2aeea85a216b86cce43e53e279f4f4643a48d27", ("open_clip/loss.py",), "loss", "open_clip"
)
COSMOS = Original(
    "ExplainableML/cosmos", "c80348f08e9b02c5a81adadd7dce486b3c284b78", ("src/open_clip/loss.py",), "loss", "src/open_clip"
)
FLAIR = Original("ExplainableML/flair", "0f9ce05886d1ee0aa2c628653104cce77a1fff14", ("src/flair/loss.py",), "loss", "src/flair")
FLAIR_POOL = Original(FLAIR.repository, FLAIR.commit, ("src/flair/transformer.py",), "transformer", FLAIR.root)
GLORIA = Original(
    "marshuang80/gloria",
    "416466af1036294301a872e4da169fefc137a192",
    ("gloria/loss/gloria_loss.py",),
    "gloria_loss",
    "gloria/loss",
)
MGCA = Original(
    "HKU-MedAI/MGCA",
    "680fe4a6ee0cc454ab58fd1a8b28fee81c03d742",
    ("mgca/models/mgca/mgca_module.py",),
    "mgca_module",
    "mgca/models/mgca",
    (
        "cosine_annealing_warmup",
        "pytorch_lightning",
        "pytorch_lightning.callbacks",
        "pytorch_lightning.loggers",
        "pytorch_lightning.plugins",
        "mgca",
        "mgca.datasets",
        "mgca.datasets.data_module",
        "mgca.datasets.pretrain_dataset",
        "mgca.datasets.transforms",
        "mgca.models",
        "mgca.models.backbones",
        "mgca.models.backbones.encoder",
    ),
)
X_CLIP = Original(
    "lucidrains/x-clip",
    "0c72f6efaf9f748a02b18c1593fc65809164aaf9",
    ("x_clip/__init__.py", "x_clip/x_clip.py", "x_clip/distributed.py"),
    "x_clip.x_clip",
    "",
    ("x_clip.mlm", "x_clip.visual_ssl"),
)
CLIP_EMBEDS = Original(
    "lst627/CLIP-Embeds",
    "1c73a50a153ccc9d89e2eddabb69f8cc05f1a0be",
    ("Patch-Aligned-Contrastive-Learning/model/pacl.py",),
    "pacl",
    "Patch-Aligned-Contrastive-Learning/model",
    ("open_clip.src", "open_clip.src.open_clip", "transformers"),
)
FINETUNE = Original(
    "tpeat/clip-finegrained-alignment",
    "5587c73ffb2550b9aac29b9cc291e967460baaeb",
    ("finetune/losses.py",),
    "losses",
    "finetune",
    ("config",),
)

LONG_CLIP = Original(
    "beichenzbc/Long-CLIP", "3966af9ae9331666309a22128468b734db4672a7", ("model/model_longclip.py",), "model_longclip", "model"
)
TRIPLETCLIP = Original(
    "tripletclip/TripletCLIP", "abbf81c9bc194cdca363bdddd9bae582b7a1291f", ("src/openclip/src/loss.py",), "loss", "src/openclip/src"
)
C2LIP = Original(
    "SamsungLabs/concept_centric_clip", "9d025267458fb682291286820798d16d1dd93bd1", ("src/open_clip/loss.py",), "loss", "src/open_clip"
)
CS_CLIP = Original("kargibora/CS-CLIP", "98b40c0f1af9d4cb7f631b9f75ef5eedeb0d01ef", ("alignment/losses.py",), "losses", "alignment")

NOT_HAD = {
    "SPARC (Bica et al. 2024)": "no code was released; two re-implementations stand in the table",
    "FILIP (Yao et al. 2022)": "no code of the authors is known; x-clip stands in the table",
    "Llip (Lavoie et al. 2024)": "no code was released, and no re-implementation is known to us",
    "PACL (Mukhoti et al. 2023)": "no code was released; NMS05/Patch-Aligned-Contrastive-Learning pools an image by its own text alone and with a"
    " sigmoid of 10 cosines, which is another loss",
    "SigLIP (google-research/big_vision)": "its loss is written inside the training step (JAX) and cannot be called by itself; open_clip's stands in"
    " the table",
    "CE-CLIP for X-VLM": "not released",
    "Image-text matching (ALBEF, X-VLM)": "written inside their models' forward pass, with the sampling of negatives; not compared",
    "Query, key and value maps of MGCA's attention": "off in its defaults; we have none",
    "LaCLIP": "its CLIP loss works only in a process group; it is CLIP's",
}
