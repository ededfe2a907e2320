"""The settings of question answering: what is asked, what the decoder sees, and the decoder."""

from __future__ import annotations

from dataclasses import dataclass, field

from wholegrain.downstream.answering.forms import KINDS
from wholegrain.downstream.settings import HeadTraining, require

TOKENS = ("patches", "branches", "pooled")
LAYERS = ("last", "penultimate")
PROMPT = "<image> {question}"
LLAVA_PROMPT = "USER: <image>\n{question}\nAnswer the question using a single word or phrase. ASSISTANT:"


@dataclass(frozen=True)
class AskData:
    """What is asked about scenes.

    Attributes:
        kinds: of questions: ``exists``, ``colour``, ``relation``, ``count``, ``compare``.
        train_questions, questions: of each kind, to train on and to measure with, at most.
        train_pictures: about the first so many pictures of the training split; 0 is all.
    """

    kinds: tuple[str, ...] = KINDS
    train_questions: int = 8000
    questions: int = 600
    train_pictures: int = 0

    def __post_init__(self) -> None:
        right = bool(self.kinds) and set(self.kinds) <= set(KINDS) and len(set(self.kinds)) == len(self.kinds)
        require(right, "data.kinds", list(self.kinds), f"a list of {', '.join(KINDS)}")
        for name, least in (("train_questions", 1), ("questions", 1), ("train_pictures", 0)):
            require(getattr(self, name) >= least, f"data.{name}", getattr(self, name), f"{least} or more")


@dataclass(frozen=True)
class VisualTokens:
    """What the decoder sees of a picture, one token each.

    Attributes:
        parts: ``patches``, ``branches`` (the class tokens or streams of a tower with branches), ``pooled``; in this order in the sequence.
        layer: of the patches: ``last`` (after the tower's last normalisation: what CLIP's own patches are) or ``penultimate`` (before its last
            block, not normalised: LLaVA's ``vision_feature_layer = -2``).
    """

    parts: tuple[str, ...] = ("patches",)
    layer: str = "last"

    def __post_init__(self) -> None:
        right = bool(self.parts) and set(self.parts) <= set(TOKENS) and len(set(self.parts)) == len(self.parts)
        require(right, "tokens.parts", list(self.parts), f"a list of {', '.join(TOKENS)}")
        require(self.layer in LAYERS, "tokens.layer", self.layer, " or ".join(LAYERS))
        require(self.layer == "last" or self.parts == ("patches",), "tokens.layer", self.layer, "last, unless the patches are all that is seen")


@dataclass(frozen=True)
class Decoder:
    """The language model.

    Attributes:
        folder: of a causal language model (or a LLaVA) of Hugging Face; empty trains a little Llama from scratch.
        tune: whether a model from a folder is trained, too, beside the projector. A new one always is.
        prompt: with ``<image>`` and ``{question}``; empty takes LLaVA-1.5's for a folder, and the bare question else.
        width, layers, heads: of a new one; its MLP is four times as wide.
        longest: tokens of an answer.
    """

    folder: str = ""
    tune: bool = False
    prompt: str = ""
    width: int = 128
    layers: int = 2
    heads: int = 4
    longest: int = 8

    def __post_init__(self) -> None:
        for name, most in (("width", 2**14), ("layers", 200), ("heads", 256), ("longest", 256)):
            require(1 <= getattr(self, name) <= most, f"decoder.{name}", getattr(self, name), f"1 to {most:,}")
        require(self.width % (2 * self.heads) == 0, "decoder.width", self.width, "a multiple of twice decoder.heads")
        given = self.prompt or PROMPT
        right = given.count("<image>") == 1 and given.count("{question}") == 1 and given.index("<image>") < given.index("{question}")
        require(right, "decoder.prompt", self.prompt, "a text with <image> and, behind it, {question}")

    @property
    def parts(self) -> tuple[str, str, str]:
        """The prompt's texts before the picture, between picture and question, and behind the question."""
        before, rest = (self.prompt or (LLAVA_PROMPT if self.folder else PROMPT)).split("<image>")
        between, behind = rest.split("{question}")
        return before, between, behind


@dataclass(frozen=True)
class AskSettings:
    """A recipe of ``wholegrain ask``."""

    training: HeadTraining = field(default_factory=HeadTraining)
    data: AskData = field(default_factory=AskData)
    tokens: VisualTokens = field(default_factory=VisualTokens)
    decoder: Decoder = field(default_factory=Decoder)
