"""What the losses cost: time and memory, against dense autograd, against CLIP's own step, and against a published table.

Two questions. *The core*: the tiled softmax and sigmoid (``losses/core/tiled_softmax.py``) beside the same losses written out over the whole
score matrix. *The methods*: losses over patches and tokens beside CLIP's, at the shapes of ViT-B/16 (196 patches, 32 tokens, width 512).

Times are of forward and backward together, the smallest of some rounds in which all rivals take turns: wall time, and the processor's
time in all threads, which other programs disturb less. Memory is the peak of what torch's CPU allocator handed out meanwhile, beyond
the inputs and less the gradients of the inputs.

    python -m benchmarks.losses --sizes 4096 --out losses.json
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, softplus

from benchmarks.peak_memory import drop_gradients, timed, with_peak_megabytes
from wholegrain.cli.main import main_of
from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.files import disk_errors, write_json
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.siglip import SiglipLoss
from wholegrain.objectives.resolve import resolve_loss
from wholegrain.objectives.schema import Term
from wholegrain.progress import Show, nowhere, showing

WIDTH, PATCHES, TOKENS = 512, 196, 32
ACROSS = {"clip", "text_conditioned", "filip", "gloria"}  # cost grows with images times texts; of the others, with images
METHODS = ("sparc", "mgca", "text_conditioned", "filip", "gloria")
PAPER = {  # one step by the step of CLIP: (TFLOPs, peak MB); Bica et al., arXiv 2401.09865, table 11, ViT-B/16, 256 devices
    "sparc": {2048: (1.15, 4408), 4096: (2.30, 4450), 8192: (4.60, 5914), 16384: (9.19, 8620)},
    "mgca": {2048: (1.16, 4412), 4096: (2.31, 4462), 8192: (4.62, 5936), 16384: (9.23, 8681)},
    "text_conditioned": {2048: (1.20, 4682), 4096: (2.46, 6267), 8192: (5.24, 9786), 16384: (12.8, 14785)},  # PACL
    "filip": {2048: (1.37, 4394), 4096: (3.17, 5230), 8192: (8.09, 8657), 16384: (27.25, 15463)},
    "gloria": {2048: (3.34, 8013), 4096: (13.21, 13840)},
    "clip": {2048: (1.15, 4394), 4096: (2.29, 4452), 8192: (4.57, 5889), 16384: (9.14, 8578)},
}
PAPER_IMAGES = 64  # of a device at 16,384


@dataclass(frozen=True)
class Cost:
    """One forward and backward pass.

    Attributes:
        name: what was run.
        size: images, and as many texts.
        seconds, cpu_seconds: the smallest of all rounds, each for itself; ``None`` if it did not fit.
        megabytes: peak beyond inputs and their gradients (2^20 bytes).
    """

    name: str
    size: int
    seconds: float | None
    cpu_seconds: float | None
    megabytes: float | None


@dataclass(frozen=True)
class LossCosts:
    """All that was measured.

    Attributes:
        core: dense and tiled losses at every size.
        methods: losses over patches and tokens.
        step_seconds_per_pair: towers of CLIP (ViT-B/16, 77 tokens), forward and backward, for one image and text.
        threads: of torch.
        load: of the machine when it began and when it ended (one-minute average; the latter counts this program, too).
        torch: its version.
    """

    core: tuple[Cost, ...]
    methods: tuple[Cost, ...]
    step_seconds_per_pair: float
    threads: int
    load: tuple[float, float]
    torch: str

    def save(self, file: Path) -> None:
        """Writes JSON."""
        with disk_errors(file):
            write_json(file, asdict(self) | {"paper": PAPER})


def measure_losses(
    sizes: Sequence[int] = (4096, 16384),
    images: int = 64,
    rounds: int = 3,
    show: Show = nowhere,
) -> LossCosts:
    """Measures everything; a minute or two for each doubling above 4,096.

    Args:
        sizes: images (and texts) of the core's problems.
        images: images (and texts) of the methods' problems; ``GLoRIA`` takes memory and time with their square.
        rounds: times that each is run; during the first memory is counted, which slows only the smallest problems.
        show: is shown what is being measured.
    """
    before = os.getloadavg()[0]
    core: list[Cost] = []
    for size in sizes:
        core += _costs(_core_problems(size), size, rounds, show)
    methods = _costs(_method_problems(images), images, rounds, show)
    show("measuring a step of CLIP's towers (ViT-B/16)", 0, 0)
    step = _step_seconds()
    return LossCosts(tuple(core), tuple(methods), step, torch.get_num_threads(), (before, os.getloadavg()[0]), torch.__version__)


Problem = tuple[Callable[[], Tensor], list[Tensor], int]  # a loss, its inputs, and the bytes that it will surely need


def _core_problems(size: int) -> dict[str, Problem]:
    draw = torch.Generator().manual_seed(0)
    image, text = (torch.randn(size, WIDTH, generator=draw, requires_grad=True) for _ in range(2))
    scale, bias = torch.tensor(50.0, requires_grad=True), torch.tensor(-5.0, requires_grad=True)
    pairing, label = Pairing.one_to_one(size), torch.arange(size)

    def scores() -> Tensor:
        return scale * normalize(image) @ normalize(text).T

    def dense_softmax() -> Tensor:
        logits = scores()
        return (cross_entropy(logits, label) + cross_entropy(logits.T, label)) / 2

    def dense_sigmoid() -> Tensor:
        return softplus((1 - 2 * torch.eye(size)) * (scores() + bias)).sum() / size

    def ours(loss: Any) -> Callable[[], Tensor]:
        return lambda: loss(ImageFeatures(image), TextFeatures(text), pairing, scale, bias).value

    leaves = [image, text, scale, bias]
    return {
        "softmax, dense": (dense_softmax, leaves, 5 * 4 * size**2),
        "softmax, tiled": (ours(ClipLoss()), leaves, 0),
        "sigmoid, dense": (dense_sigmoid, leaves, 5 * 4 * size**2),
        "sigmoid, tiled": (ours(SiglipLoss()), leaves, 0),
    }


def _method_problems(images: int) -> dict[str, Problem]:
    draw = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, requires_grad=True)

    length = torch.randint(5, TOKENS + 1, (images, 1), generator=draw)
    length[0] = TOKENS
    image = ImageFeatures(leaf(images, WIDTH), None, leaf(images, PATCHES, WIDTH), (14, PATCHES // 14))
    text = TextFeatures(leaf(images, WIDTH), leaf(images, TOKENS, WIDTH), torch.arange(TOKENS) < length)
    scale, pairing = torch.tensor(50.0, requires_grad=True), Pairing.one_to_one(images)
    leaves = [x for features in (image, text) for x in vars(features).values() if isinstance(x, Tensor) and x.requires_grad]
    found: dict[str, Problem] = {}
    for name in ("clip", *METHODS):
        loss = resolve_loss(Term(name=name, loss=name, weight=1.0))
        found[name] = (lambda loss=loss: loss(image, text, pairing, scale).value, [*leaves, scale], 0)
    return found


def _costs(problems: dict[str, Problem], size: int, rounds: int, show: Show) -> list[Cost]:
    fits = [name for name, (_, _, needed) in problems.items() if needed < 0.8 * _free_bytes()]
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in problems}
    peak: dict[str, float] = {}
    for nth in range(rounds):
        for place, name in enumerate(fits):
            show(f"measuring losses of {size:,} images and texts", nth * len(fits) + place, rounds * len(fits))
            loss, leaves, _ = problems[name]
            if nth == 0:
                seconds, peak[name] = with_peak_megabytes(loss, leaves)
            else:
                seconds = timed(loss)
                drop_gradients(leaves)
            taken[name].append(seconds)
    return [
        Cost(n, size, min((wall for wall, _ in t), default=None), min((cpu for _, cpu in t), default=None), peak.get(n))
        for n, t in taken.items()
    ]


def _free_bytes() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux
        return 8e9


def _step_seconds(images: int = 4) -> float:
    """Forward and backward of CLIP ViT-B/16's towers, for one pair."""
    import open_clip

    logging.disable(logging.WARNING)  # that the weights are random is meant
    try:
        model: Any = open_clip.create_model("ViT-B-16", pretrained=None)
    finally:
        logging.disable(logging.NOTSET)
    pixels, tokens = torch.randn(images, 3, 224, 224), torch.randint(1, 1000, (images, 77))
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        (model.encode_image(pixels).sum() + model.encode_text(tokens).sum()).backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds) / images


def step_ratio(costs: LossCosts, name: str, images: int, texts: int) -> float | None:
    """The estimated cost of a step with this loss by that of CLIP's: towers of ``images`` pairs plus the loss, which is taken to
    grow with images times texts, or with images alone if it looks inside pairs."""
    by_name = {cost.name: cost for cost in costs.methods}
    clip, own = by_name["clip"], by_name[name]
    if not (clip.seconds and own.seconds):
        return None

    def grown(cost: Cost) -> float:
        assert cost.seconds is not None
        return cost.seconds * images / cost.size * (texts / cost.size if cost.name in ACROSS else 1)

    towers, base = images * costs.step_seconds_per_pair, grown(clip)
    return (towers + grown(own) + (0 if name in ACROSS else base)) / (towers + base)


def losses(
    *,
    sizes: tuple[int, ...] = (4096, 16384),
    images: int = 64,
    rounds: int = 3,
    out: Path | None = None,
) -> int:
    """Measures time and memory, and prints a table: contrastive losses in tiles against dense autograd, and losses over patches and
    tokens against CLIP's.

    python -m benchmarks.losses --sizes 4096 --out losses.json

    Args:
        sizes: images, and as many texts, of the contrastive losses.
        images: images, and as many texts, of the losses over patches and tokens.
        rounds: times that each is run; the fastest counts.
        out: a JSON file for the figures.
    """
    if min((images, rounds, *sizes)) < 1:
        raise UserError("Sizes, images and rounds must be at least 1; change the option that is not.")
    if out is not None:
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
    with showing() as show:
        show("starting")
        costs = measure_losses(sizes, images, rounds, show=show)
    console = Console()
    _print(costs, console)
    if out is not None:
        costs.save(out)
        console.print(f"written: {out}", highlight=False, soft_wrap=True)
    return 0


def _print(costs: LossCosts, console: Console) -> None:
    console.print(_core_table(costs))
    console.print(_methods_table(costs))
    busy = "; other programs were running" if costs.load[0] > 0.5 else ""
    console.print(f"{costs.threads} threads, torch {costs.torch}, load before {costs.load[0]:.1f}{busy}")
    console.print(f"CLIP's step (ViT-B/16, towers forward and backward, float32): {costs.step_seconds_per_pair:.2f} s a pair")


def _table(title: str, columns: Sequence[str]) -> Table:
    return Table(Column("loss", min_width=16), *columns, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _core_table(costs: LossCosts) -> Table:
    columns = ("images", "seconds", "to dense", "CPU s", "to dense", "MB", "of step")
    table = _table(f"contrastive losses, width {WIDTH}; share of a step of CLIP", columns)
    dense = {(c.name.split(",")[0], c.size): c for c in costs.core if c.name.endswith("dense")}
    for cost in costs.core:
        whole = dense[cost.name.split(",")[0], cost.size]
        share = cost.seconds and cost.seconds / (cost.size * costs.step_seconds_per_pair)
        table.add_row(
            cost.name, f"{cost.size:,}", _number(cost.seconds), _by(cost.seconds, whole.seconds), _number(cost.cpu_seconds),
            _by(cost.cpu_seconds, whole.cpu_seconds), _number(cost.megabytes, 0), "-" if share is None else f"{share:.2%}",
        )  # fmt: skip
    return table


def _methods_table(costs: LossCosts) -> Table:
    title = f"losses over 196 patches, {TOKENS} tokens; a step's cost by that of CLIP"
    columns = ("seconds", "by CLIP's", "MB", "step, 2k", "paper", "step, 16k", "paper")
    table = _table(title, columns)
    clip = next(c for c in costs.methods if c.name == "clip")
    for cost in costs.methods:
        ratios = []
        for texts in (2048, 16384):
            published = PAPER[cost.name].get(texts)
            ratios += [
                _number(step_ratio(costs, cost.name, PAPER_IMAGES * texts // 16384, texts), 3),
                _number(published and published[0] / PAPER["clip"][texts][0], 3),
            ]
        table.add_row(
            cost.name, _number(cost.seconds, 4), _by(cost.seconds, clip.seconds, 0), _number(cost.megabytes, 0), *ratios
        )
    return table


def _number(x: float | None, digits: int = 2) -> str:
    return "-" if x is None else f"{x:,.{digits}f}"


def _by(x: float | None, whole: float | None, digits: int = 2) -> str:
    return "-" if x is None or not whole else _number(x / whole, digits)


if __name__ == "__main__":
    main_of(losses, "python -m benchmarks.losses")
