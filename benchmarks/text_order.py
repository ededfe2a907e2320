"""What is missing for order and place, the eye or the reader? A text-order probe.

The picture side is made perfect: a fixed vector per scene in which every thing is bound to its colour and its place. Only the text tower
learns, by NegCLIP's loss with hard negatives of relation, place and swaps. A tower that stays at chance here will not be repaired by any
loss on real pictures. Prints accuracy at choosing a twin's caption (chance 50%) and the group score (chance 16.7%) as training goes on.

    python benchmarks/text_order.py --reader gru
    python benchmarks/text_order.py --reader transformer
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from wholegrain.data.scenes.captions import TRAINING_WORDINGS, main_object, overview, vocabulary
from wholegrain.data.scenes.twins import draw_twins, negatives
from wholegrain.data.scenes.world import COLOURS, Scene, World, draw_scene
from wholegrain.evaluation.tasks.composition import twin_scores
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import unit
from wholegrain.losses.negclip import NegclipLoss
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers.sources.small import SmallConfig, small_model

WIDTH, BATCH = 128, 128
KINDS = ("relation", "swap_object", "swap_attribute", "replace_object")
HARD = ("relation", "swap_object", "swap_attribute", "place")
WORLD = World()


class PerfectEye:
    """Scene -> vector: the sum over its things of noun, colour, noun with colour, and noun with place across and down."""

    def __init__(self, reach: float = 3.0) -> None:
        rng = np.random.default_rng(0)
        noun, colour = len(WORLD.nouns), len(COLOURS)
        self.noun, self.across, self.down = (rng.normal(size=(noun, WIDTH)) for _ in range(3))
        self.colour, self.bound = rng.normal(size=(colour, WIDTH)), rng.normal(size=(noun, colour, WIDTH))
        self.reach = reach
        self.nouns, self.colours = {n: i for i, n in enumerate(WORLD.nouns)}, {c: i for i, c in enumerate(COLOURS)}

    def __call__(self, scene: Scene) -> np.ndarray:
        total = np.zeros(WIDTH)
        for t in scene.things:
            n, c = self.nouns[t.noun], self.colours[t.colour]
            total += self.noun[n] + 0.5 * self.colour[c] + 0.5 * self.bound[n, c]
            total += self.reach * ((t.x - 0.5) * self.across[n] + (t.y - 0.5) * self.down[n])
        return total


def texts_of(scene: Scene, owner: int, rng: np.random.Generator) -> list[tuple[str, int, int]]:
    """(text, owner, place of the caption it contradicts or -1) of an overview, a place, and their hard negatives."""
    rows: list[tuple[str, int, int]] = []
    for said in (overview(scene, rng), main_object(scene, rng)):
        place = len(rows)
        rows.append((said.text, owner, -1))
        rows += [(text, owner, place) for kind, text in negatives(said, scene, WORLD, rng) if kind in HARD]
    return rows


def make_batch(step: int, eye: PerfectEye) -> tuple[torch.Tensor, list[str], Pairing]:
    images, rows = [], []
    for owner in range(BATCH):
        rng = WORLD.rng("text order", step * BATCH + owner)
        scene = draw_scene(WORLD, rng)
        images.append(eye(scene))
        first = len(rows)
        rows += [(t, o, -1 if n < 0 else n + first) for t, o, n in texts_of(scene, owner, rng)]
    texts, owners, contradicted = zip(*rows, strict=True)
    places = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    zero = torch.zeros(len(texts), dtype=torch.int64)
    pairing = Pairing(
        torch.tensor(owners),
        torch.tensor(contradicted),
        zero,
        zero,
        torch.tensor([places[t] for t in texts]),
        torch.arange(BATCH),
    )
    return torch.tensor(np.stack(images), dtype=torch.float32), list(texts), pairing


@torch.inference_mode()
def measure(model: torch.nn.Module, eye: PerfectEye, count: int = 200) -> dict[str, tuple[float, float]]:
    """Kind -> (accuracy of single choices of a caption, group score)."""
    found = {}
    for kind in KINDS:
        items = [
            draw_twins(kind, WORLD, WORLD.rng(f"probe {kind}", i), unseen=False, wordings=TRAINING_WORDINGS) for i in range(count)
        ]
        image = unit(torch.tensor(np.stack([[eye(scene) for scene, _ in item] for item in items]), dtype=torch.float32))
        rows = model.tokenizer.encode([said.text for item in items for _, said in item])
        text = unit(model.encode_texts(rows.tokens_NL, rows.length_N).pooled_ND).view(count, 2, -1)
        values = twin_scores(torch.einsum("nid,ntd->nit", image, text).numpy())
        found[kind] = (float(values["picks_caption"].mean()), float(values["group_score"].mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", choices=("gru", "transformer"), default="gru")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    tokenizer = train_tokenizer(vocabulary(WORLD), 1024, 32)
    model = small_model(SmallConfig(image_layers=1, text_layers=2, width=WIDTH, reader=asked.reader), tokenizer)
    trained = [*model.text_tower.parameters(), *model.head.parameters(), model.log_scale]
    optimiser = torch.optim.AdamW(trained, lr=asked.lr, betas=(0.9, 0.98), weight_decay=0.05)
    eye, loss, started = PerfectEye(), NegclipLoss(), time.perf_counter()
    for step in range(1, asked.steps + 1):
        optimiser.param_groups[0]["lr"] = asked.lr * min(1.0, step / 50)
        image_BD, texts, pairing = make_batch(step, eye)
        rows = tokenizer.encode(texts)
        text = TextFeatures(model.encode_texts(rows.tokens_NL, rows.length_N).pooled_ND)
        value = loss(ImageFeatures(image_BD), text, pairing, model.scale).value
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        if step % asked.every == 0:
            shown = "  ".join(f"{kind} {accuracy:.0%} / {group:.0%}" for kind, (accuracy, group) in measure(model, eye).items())
            print(
                f"{asked.reader} step {step} ({time.perf_counter() - started:.0f} s): loss {value.item():.2f}  {shown}",
                flush=True,
            )


if __name__ == "__main__":
    main()
