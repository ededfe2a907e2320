"""The card of an exported model: ``README.md`` with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wholegrain.errors import UserError

LIBRARY = {name: name for name in ("open_clip", "transformers", "onnx", "peft", "wholegrain")} | {"optimum": "transformers.js"}
"""Format -> the Hub's name of the library that reads it."""
READ_WITH = {"optimum": "onnxruntime", "peft": "transformers (adapters added)"}
"""Format -> what read it back, where that is not the library of its name."""
LOAD = {
    "open_clip": """import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("{open_clip}")
tokenizer = open_clip.get_tokenizer("{open_clip}")""",
    "transformers": """from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
model, tokenizer = AutoModel.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
processor = AutoImageProcessor.from_pretrained("{name}")""",
    "onnx": """import onnxruntime
image = onnxruntime.InferenceSession("{name}/image.onnx")    # pixels: uint8 [B, 3, S, S]; see wholegrain_onnx.json
text = onnxruntime.InferenceSession("{name}/text.onnx")      # tokens: int64 [N, L]; length: int64 [N]""",
    "optimum": """from optimum.onnxruntime import ORTModelForZeroShotImageClassification    # pip install optimum-onnx
from transformers import AutoImageProcessor, AutoTokenizer, pipeline
model, tokenizer = ORTModelForZeroShotImageClassification.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
processor = AutoImageProcessor.from_pretrained("{name}")
classify = pipeline("zero-shot-image-classification", model=model, tokenizer=tokenizer, image_processor=processor)""",
    "peft": """from peft import PeftModel
from transformers import AutoImageProcessor, AutoTokenizer, {base_class}    # AutoModel would take the folder for adapters alone
model = PeftModel.from_pretrained({base_class}.from_pretrained("{name}", subfolder="base"), "{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}", subfolder="base")
processor = AutoImageProcessor.from_pretrained("{name}", subfolder="base")""",
    "wholegrain": """from wholegrain.towers import load_model
model = load_model("{wholegrain}")
image = model.encode_images(pixels_BCHW).pooled_BD    # uint8, resized by model.preprocess""",
}

ELSEWHERE = {
    "transformers": """from transformers import pipeline
classify = pipeline("zero-shot-image-classification", model="{name}")
classify("photo.jpg", candidate_labels=["a dog", "a cat"])

from sentence_transformers import SentenceTransformer    # 5.4 or newer
model = SentenceTransformer("{name}")    # encodes texts and pictures, for search, and for mteb.evaluate""",
    "optimum": """import {{ pipeline }} from "@huggingface/transformers";
const classify = await pipeline("zero-shot-image-classification", "{name}", {{ dtype: "fp32" }});
await classify("photo.jpg", ["a dog", "a cat"]);""",
    "wholegrain": """import wholegrain as wg
from wholegrain.integrations.fiftyone_model import fiftyone_model
dataset.compute_embeddings(fiftyone_model(wg.load("{wholegrain}")), embeddings_field="clip")    # a data set of FiftyOne

from wholegrain.integrations.sentence_transformers_module import sentence_transformer
model = sentence_transformer(wg.load("{wholegrain}"))

from wholegrain.integrations.mteb_encoder import mteb_encoder
mteb.evaluate(mteb_encoder(wg.load("{wholegrain}")), mteb.get_tasks(tasks=["CIFAR10ZeroShot"]))""",
}
"""Other programs that take a model of the format, and how; tried by ``tests/integrations``, transformers.js by hand."""


@dataclass(frozen=True)
class Score:
    """A figure for the card.

    Attributes:
        task, metric: such as ``retrieval`` and ``image_retrieval_recall@1``.
        dataset, split: what it was measured on.
        value: as measured.
    """

    task: str
    metric: str
    dataset: str
    split: str
    value: float


@dataclass(frozen=True)
class Facts:
    """What a card tells.

    Attributes:
        name: the model's, for the title.
        to: the format.
        place: where it lies: ``org/name`` on the Hub, or a folder.
        on_hub: which of the two.
        training: what made it, row by row, such as recipe, data, seed.
        paper: of the method.
        dataset, base: names, for the front matter; empty where they are none of the Hub's.
        scores: of the model that is exported.
        differences: what was compared after writing, and how far apart it was.
        base_class: of adapters: the class of transformers that their base is of.
        notes: paragraphs that a reader must know, such as what an approximation loses.
    """

    name: str
    to: str
    place: str
    on_hub: bool = False
    training: Mapping[str, object] = field(default_factory=dict)
    paper: str = ""
    dataset: str = ""
    base: str = ""
    scores: Sequence[Score] = ()
    differences: Mapping[str, float] = field(default_factory=dict)
    base_class: str = ""
    notes: Sequence[str] = ()


def card(facts: Facts) -> str:
    """The text of ``README.md``."""
    return f"---\n{_front(facts)}\n---\n\n{_body(facts)}"


def _front(facts: Facts) -> str:
    try:
        from huggingface_hub import EvalResult, ModelCardData
    except ImportError as error:
        raise UserError("writing a model's card needs huggingface_hub; install it with: pip install huggingface_hub") from error

    results = [
        EvalResult(
            task_type=score.task.replace("_", "-"),
            dataset_type=score.dataset,
            dataset_name=score.dataset,
            dataset_split=score.split,
            metric_type=score.metric,
            metric_value=round(score.value, 4),
        )
        for score in facts.scores
    ]
    data = ModelCardData(
        library_name=LIBRARY[facts.to],
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "vision-language", "wholegrain", *([str(facts.training["recipe"])] if "recipe" in facts.training else [])],
        base_model=facts.base or None,
        datasets=facts.dataset or None,
        metrics=sorted({score.metric for score in facts.scores}) or None,
        eval_results=results or None,
        model_name=facts.name,
    )
    return data.to_yaml().rstrip()


def _body(facts: Facts) -> str:
    parts = [f"# {facts.name}", "A CLIP model: images and texts in one space, compared by cosine. Made with Wholegrain."]
    prefix = {"open_clip": "hf-hub:" if facts.on_hub else "local-dir:", "wholegrain": "hf-hub:" if facts.on_hub else ""}
    names = {"name": facts.place, "base_class": facts.base_class, **{to: start + facts.place for to, start in prefix.items()}}
    parts += ["## Use", f"```python\n{LOAD[facts.to].format(**names)}\n```"]
    if facts.to in ELSEWHERE:
        language = "js" if facts.to == "optimum" else "python"
        parts += ["In other programs:", f"```{language}\n{ELSEWHERE[facts.to].format(**names)}\n```"]
    parts += list(facts.notes)
    if facts.training:
        rows = {**facts.training, **({"paper": facts.paper} if facts.paper else {})}
        parts += ["## Training", _table(("", ""), [(key, _cell(value)) for key, value in rows.items()])]
    if facts.scores:
        rows = [(s.task, s.metric, f"{s.dataset}, {s.split}", f"{s.value:.4g}") for s in facts.scores]
        parts += ["## Results", _table(("task", "figure", "data", "value"), rows)]
    if facts.differences:
        listed = ", ".join(f"{part} {far:.0e}" for part, far in facts.differences.items())
        parts += [
            "## Check",
            f"Written, read back with {READ_WITH.get(facts.to, facts.to)} and compared; largest difference as a share of the largest number: {listed}.",
        ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")
