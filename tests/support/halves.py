"""Pictures of two coloured halves with everything that a report shows, and models of them."""

import io

import numpy as np
import torch
from PIL import Image

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, HardPositive, Negative, Record, Region, Twin, caption_id, content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers import HeadConfig, convert_head
from wholegrain.towers.sources.small import SmallConfig, small_model

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 50, 220), "white": (240, 240, 240)}


def make_halves(folder):
    """Ten pictures of two coloured halves, each half a region, with negatives, twins and hard positives."""
    names = list(COLOURS)
    negatives, records = [], []
    with ShardWriter(folder) as writer:
        for number in range(10):
            left, right = names[number % 4], names[(number + 1 + number // 4) % 4]
            pixels = np.zeros((16, 16, 3), np.uint8)
            pixels[:, :8], pixels[:, 8:] = COLOURS[left], COLOURS[right]
            pixels[number, number] = 7
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "png")
            key = content_key(file.getvalue())
            texts = [(f"a {left} door & a {right} wall <here>", "web"), (f"{right} things", "detail")]
            regions = (Region((0, 0, 8, 16), f"a {left} door"), Region((8, 0, 16, 16), f"a {right} wall"))
            captions = tuple(Caption(caption_id(text), text, role) for text, role in texts)
            records.append(Record(key, f"{key}.png", (16, 16), "test", None, captions, regions))
            writer.add(records[-1], file.getvalue())
            false = f"a {right} door & a {right} wall <here>"
            edits = ((2, 2 + len(left), left, right),)
            negatives.append(Negative(key, captions[0].id, "replace_colour", false, edits))
    write_sidecar(folder, "negatives", negatives)
    pairs = [(records[n], records[n + 1]) for n in range(0, 10, 2)]
    twins = [
        Twin(f"t{n}", ("swap", "colour")[n % 2], (a.key, b.key), (a.captions[0].text, b.captions[0].text))
        for n, (a, b) in enumerate(pairs)
    ]
    write_sidecar(folder, "twins", twins)
    a, b = pairs[0]
    hard = HardPositive("h0", "wording", a.key, (a.captions[0].text, a.captions[1].text), b.captions[0].text)
    write_sidecar(folder, "hard_positives", [hard])
    return Dataset(folder)


def make_model(dataset, seed, branches=0):
    torch.manual_seed(seed)
    texts = [caption.text for record in dataset.records("test") for caption in record.captions]
    config = SmallConfig(
        image_size=16, patch=4, image_width=16, image_layers=1, heads=2, text_width=16, text_layers=1, context=20, width=8
    )
    model = small_model(config, train_tokenizer(texts, 100, 20))
    if branches:
        convert_head(model, HeadConfig("branches", branches=branches))
    return model.eval()
