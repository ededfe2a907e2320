"""A very small data set and model that the tests of training share."""

import io

import numpy as np
from PIL import Image

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Negative, Record, Twin, caption_id, content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar
from wholegrain.objectives.recipe import load_recipe
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers.sources.small import SmallConfig, small_model
from wholegrain.training import trainer
from wholegrain.training.step import seed_everything

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 50, 220), "white": (240, 240, 240)}
SIZE = 16


def picture(left, right, number):
    """Left and right halves in two colours, with a dot that makes every picture another file."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[:, : SIZE // 2], pixels[:, SIZE // 2 :] = COLOURS[left], COLOURS[right]
    pixels[number // SIZE % SIZE, number % SIZE] = 128
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def make_dataset(folder, count=24, splits=("train", "val")):
    """Two-coloured pictures with a web caption, two role captions, negatives of two kinds for the web caption, and twins."""
    names = list(COLOURS)
    negatives, keys = [], []
    with ShardWriter(folder) as writer:
        for split_number, split in enumerate(splits):
            for number in range(count):
                left, right = names[number % 4], names[(number // 4) % 4]
                image = picture(left, right, number + split_number * count)
                key = content_key(image)
                web = f"{left} beside {right}"
                texts = [(web, "web"), (f"a {left} half", "detail"), (f"{right} things", "style")]
                captions = tuple(Caption(caption_id(text), text, role) for text, role in texts)
                writer.add(Record(key, f"{key}.png", (SIZE, SIZE), split, None, captions), image)
                swapped = ((0, len(left), left, right), (len(web) - len(right), len(web), right, left))
                negatives.append(Negative(key, caption_id(web), "swap", f"{right} beside {left}", swapped))
                negatives.append(Negative(key, caption_id(web), "replace", f"black beside {right}"))
                negatives.append(Negative(key, caption_id(web), "swap", f"{right} next to {left}"))
                keys.append(key)
    write_sidecar(folder, "negatives", negatives)
    write_sidecar(folder, "twins", [Twin(f"t{n}", "swap", (keys[n], keys[n + 1]), ("a", "b")) for n in range(0, 8, 2)])
    return Dataset(folder)


def make_model(dataset, seed=0, **sizes):
    """A one-layer model; the same weights for the same seed."""
    seed_everything(seed)
    texts = [caption.text for key in dataset.keys("train") for caption in dataset.record(key).captions]
    small = {"image_size": 16, "patch": 8, "image_width": 16, "image_layers": 1, "heads": 2, "text_width": 16, "text_layers": 1}
    config = SmallConfig(**{**small, "context": 12, "width": 8, **sizes})
    return small_model(config, train_tokenizer(texts, 100, 12))


def train(recipe, dataset, model, folder, *, evaluate=None, on_step=None, **options):
    """Training with a run's folder and further options by name."""
    return trainer.train(recipe, dataset, model, trainer.TrainOptions(folder, **options), evaluate=evaluate, on_step=on_step)


def make_recipe(name="clip", *overrides):
    """A packaged recipe at a size for tests."""
    quick = ["--optimiser.batch", "8", "--optimiser.lr", "1e-3", "--optimiser.steps", "10", "--optimiser.warmup_steps", "2"]
    quick += ["--saving.every", "100"]
    return load_recipe(name, [*quick, "--optimiser.precision", "fp32", *overrides])
