"""Rivals in turn: one step of one, one step of the other, and so on, while the one that waits does nothing.

What is timed of ours is the whole of ``wholegrain train``, loading and log included; of open_clip, its trainer on batches that are ready
in memory. Ratios are taken turn by turn, so that a machine whose speed drifts slows both sides alike.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.step.count import recipe_work
from benchmarks.step.data import ROLES, captions_of, made_captions, write_data
from wholegrain.data.dataset import Dataset
from wholegrain.errors import MachineError
from wholegrain.text.tokenizer import Tokenizer
from wholegrain.towers.model import Model
from wholegrain.training.work import matrix_peak

BATCHES = 4
NEVER = 10**9
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Setting:
    """What all rivals have in common.

    Attributes:
        model: a name of open_clip.
        batch: images a step.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        device: ``cpu`` or ``cuda``.
        rounds: turns of each pair.
        compile: whether ours is compiled, too.
        workers: processes that load for ours.
    """

    model: str
    batch: int
    precision: str
    device: str
    rounds: int
    compile: bool
    workers: int


@dataclass(frozen=True)
class Rival:
    """One side of a pair.

    Attributes:
        name: what the table calls it.
        recipe: of ours; empty is open_clip's trainer.
        padded: texts at the whole context (ours).
        flags: of open_clip's trainer.
        source: a folder with open_clip's source; empty is the one that is installed.
    """

    name: str
    recipe: str = ""
    padded: bool = False
    flags: tuple[str, ...] = ()
    source: str = ""


@dataclass
class Pair:
    """A comparison: seconds of each turn, ours first, and the device's fastest matrix product after it, FLOP/s."""

    ours: str
    other: str
    seconds: list[tuple[float, float]] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """How many times as fast ours is, turn by turn."""
        return [other / own for own, other in self.seconds]


@dataclass
class StepCosts:
    """All that was measured.

    Attributes:
        setting: see :class:`Setting`.
        pairs: the comparisons.
        texts, megabytes: of a step, by rival's name; megabytes at the peak.
        flops: multiplications and additions of a step's matrix products, as they are and with every text at the whole context.
        lengths: mean and longest caption in tokens.
        facts: versions, threads, the device's name.
    """

    setting: Setting
    pairs: list[Pair]
    texts: dict[str, int]
    flops: dict[str, tuple[float, float]]
    megabytes: dict[str, float]
    lengths: tuple[float, int]
    facts: dict[str, Any]

    def turns(self, name: str) -> list[tuple[float, float]]:
        """Seconds and peak of every turn of a rival."""
        found = []
        for pair in self.pairs:
            for side, rival in enumerate((pair.ours, pair.other)):
                found += [(s[side], peak) for s, peak in zip(pair.seconds, pair.peaks, strict=True) if rival == name]
        return found

    def median_seconds(self, name: str) -> float:
        """Of all turns of a rival."""
        return statistics.median(seconds for seconds, _ in self.turns(name))

    def peak_share(self, name: str, padded: bool) -> float:
        """The part of the device's peak that a rival's matrix products reach, turn by turn; the median."""
        work = self.flops[name][padded]
        return statistics.median(work / seconds / peak for seconds, peak in self.turns(name))

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


class Turns:
    """A rival's process, that takes a step when it is told to."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True, env={**os.environ, **environment}
            )
        self.facts = self._answer()

    def step(self) -> dict[str, Any]:
        """One step, and what was measured of it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # told below
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            said = self._last_words()
            if said.startswith("ModuleNotFoundError"):
                raise MachineError(f"open_clip's trainer does not start ({said}); install what it needs: pip install -e '.[dev]'.")
            raise MachineError(f"A rival ended before its step: {said}")
        return json.loads(line)

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"exit status {self._process.returncode}, nothing said"

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


def measure_steps(
    setting: Setting,
    pairs: Sequence[tuple[Rival, Rival]],
    captions: Dataset | None,
    model: Model,
    say: Callable[[str], None],
) -> StepCosts:
    """Runs all pairs, one after the other.

    Args:
        setting: what they share.
        pairs: ours, and what it is compared with.
        captions: where captions come from; ``None`` makes some.
        model: of the setting; for its tokeniser and its picture size.
        say: told what comes next.

    Raises:
        MachineError: a rival broke off; the sentence has its last words.
    """
    images = BATCHES * setting.batch
    texts = made_captions(len(ROLES) * images) if captions is None else captions_of(captions, len(ROLES) * images)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = write_data(folder / "data", texts, images, model.preprocess.size)
        lengths = _ready_batches(folder / "batches.npz", dataset, model.tokenizer, setting.batch, model.preprocess.size)
        costs = StepCosts(setting, [], {}, {}, {}, lengths, _facts(setting))
        say("counting the arithmetic")
        known: dict[tuple[str, bool], float] = {}
        for rival in dict.fromkeys(rival for pair in pairs for rival in pair):
            costs.flops[rival.name] = _work(rival, setting, folder, known)
        for ours, other in pairs:
            say(f"{ours.name} and {other.name}: {setting.rounds} turns each")
            costs.pairs.append(_in_turn(ours, other, setting, folder, costs))
    return costs


def _work(rival: Rival, setting: Setting, folder: Path, known: dict[tuple[str, bool], float]) -> tuple[float, float]:
    """A step's arithmetic as it is, and with every text at the whole context, which is what open_clip's CLIP takes."""
    recipe, pad = rival.recipe or "clip", rival.padded or not rival.recipe
    for way in (pad, True):
        if (recipe, way) not in known:
            known[recipe, way] = recipe_work(recipe, folder / "data", setting.model, setting.batch, way)
    return known[recipe, pad], known[recipe, True]


def _in_turn(ours: Rival, other: Rival, setting: Setting, folder: Path, costs: StepCosts) -> Pair:
    pair, both = Pair(ours.name, other.name), []
    try:
        both += [_start(rival, setting, folder) for rival in (ours, other)]
        both[1].step()  # ours has taken its first already
        for _ in range(setting.rounds):
            answers = [turns.step() for turns in both]
            pair.seconds.append((answers[0]["seconds"], answers[1]["seconds"]))
            pair.peaks.append(matrix_peak(torch.device(setting.device), setting.precision))
            for rival, answer in zip((ours, other), answers, strict=True):
                costs.megabytes[rival.name] = max(costs.megabytes.get(rival.name, 0.0), answer["megabytes"])
        for rival, turns in zip((ours, other), both, strict=True):
            costs.texts[rival.name] = turns.facts.get("texts", setting.batch)
            if "version" in turns.facts:
                costs.facts[rival.name] = turns.facts["version"]
    finally:
        for turns in both:
            turns.close()
    return pair


def _start(rival: Rival, setting: Setting, folder: Path) -> Turns:
    command, environment = (_ours if rival.recipe else _theirs)(rival, setting, folder)
    left = folder / "left"  # what a process that is ended leaves behind
    left.mkdir(exist_ok=True)
    return Turns([sys.executable, *command], {**environment, "TMPDIR": str(left)}, folder / "rival.log")


def _ours(rival: Rival, setting: Setting, folder: Path) -> tuple[list[str], dict[str, str]]:
    values = {
        "optimiser.batch": setting.batch,
        "optimiser.steps": NEVER,
        "optimiser.precision": setting.precision,
        "optimiser.compile": str(setting.compile).lower(),
        "saving.every": NEVER,
    }
    facts = {
        "recipe": rival.recipe,
        "data": str(folder / "data"),
        "model": setting.model,
        "overrides": [f"--{key}={value}" for key, value in values.items()],
        "padded": rival.padded,
        "workers": setting.workers,
        "device": setting.device,
    }
    return ["-m", "benchmarks.step.our_turns", json.dumps(facts)], {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}


def _theirs(rival: Rival, setting: Setting, folder: Path) -> tuple[list[str], dict[str, str]]:
    precision = setting.precision if setting.precision == "fp32" else f"amp_{setting.precision}".replace("amp_fp16", "amp")
    flags = ["--model", setting.model, "--batch-size", str(setting.batch), "--precision", precision, "--device", setting.device]
    script = Path(__file__).with_name("open_clip_turns.py")
    environment = {"PYTHONPATH": rival.source} if rival.source else {}
    return [str(script), str(folder / "batches.npz"), *flags, *rival.flags], environment


def _ready_batches(path: Path, dataset: Dataset, tokenizer: Tokenizer, batch: int, size: int) -> tuple[float, int]:
    """Batches as open_clip's loader would give them, first captions, all 77 tokens; mean and longest length."""
    records = list(dataset.records("train"))
    encoded = tokenizer.encode([record.captions[0].text for record in records])
    rows_NL = torch.full((len(records), tokenizer.context_length), tokenizer.pad_id)
    rows_NL[:, : encoded.tokens_NL.shape[1]] = encoded.tokens_NL
    pixels = np.random.default_rng(0).integers(0, 256, (BATCHES, batch, 3, size, size), dtype=np.uint8)
    np.savez(path, pixels=pixels, tokens=rows_NL.unflatten(0, (BATCHES, batch)).numpy())
    return float(encoded.length_N.float().mean()), int(encoded.length_N.max())


def _facts(setting: Setting) -> dict[str, Any]:
    cuda = setting.device.startswith("cuda")
    name = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads of {_cpu_name()}"
    return {"device": name, "torch": torch.__version__, "load": os.getloadavg()[0]}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "an unnamed CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "an unnamed CPU")
