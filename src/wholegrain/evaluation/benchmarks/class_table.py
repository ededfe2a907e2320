"""Classification sets by name: their sentences, the figure that is quoted for them, and where they are had from.

The figure is that of CLIP's paper (Radford et al. 2021, table 9) and of ELEVATER: accuracy, except the mean over classes for Caltech-101, FGVC
Aircraft, Oxford Pets and Flowers-102, the 11-point mean average precision for VOC 2007, and the area under the ROC curve for Hateful Memes.
The names are those of CLIP_benchmark where it has the set.
"""

from __future__ import annotations

from dataclasses import dataclass

CLIP_BENCHMARK = "https://huggingface.co/clip-benchmark (datasets wds_*), or CLIP_benchmark's clip_benchmark_export_wds"


@dataclass(frozen=True)
class ClassTask:
    """One row.

    Attributes:
        prompts: a name for :func:`~wholegrain.evaluation.tasks.templates.templates_of`.
        metric: the figure that is quoted.
        size: pictures in the published test part; 0 where several versions are in use.
        classes: how many classes compete; 0 where it is not fixed.
        part: ``all``, ``a`` or ``r``: folders are WordNet ids of these classes of ImageNet; ``places``: folders are the classes' numbers.
        source: where to get it.
    """

    prompts: str
    metric: str = "acc1"
    size: int = 0
    classes: int = 0
    part: str = ""
    source: str = CLIP_BENCHMARK


IMAGENET = "https://image-net.org (ILSVRC 2012, validation pictures sorted into a folder for each WordNet id)"
PER_CLASS = "mean_per_class_recall"

CLASS_TASKS: dict[str, ClassTask] = {
    "caltech101": ClassTask("caltech101", PER_CLASS, classes=102),
    "cars": ClassTask("cars", size=8041, classes=196),
    "cifar10": ClassTask("cifar10", size=10_000, classes=10),
    "cifar100": ClassTask("cifar100", size=10_000, classes=100),
    "clevr_count_all": ClassTask("clevr_count_all"),
    "country211": ClassTask("country211", size=21_100, classes=211),
    "dtd": ClassTask("dtd", size=1880, classes=47),
    "eurosat": ClassTask("eurosat", classes=10),
    "fer2013": ClassTask("fer2013", classes=7),
    "fgvc_aircraft": ClassTask("fgvc_aircraft", PER_CLASS, 3333, 100),
    "flowers": ClassTask("flowers", PER_CLASS, 6149, 102),
    "food101": ClassTask("food101", size=25_250, classes=101),
    "gtsrb": ClassTask("gtsrb", size=12_630, classes=43),
    "hateful_memes": ClassTask("hateful_memes", "roc_auc", classes=2, source="https://hatefulmemeschallenge.com"),
    "imagenet": ClassTask("openai", size=50_000, classes=1000, part="all", source=IMAGENET),
    "imagenet_a": ClassTask("openai", size=7500, classes=200, part="a", source="https://github.com/hendrycks/natural-adv-examples"),
    "imagenet_r": ClassTask("openai", size=30_000, classes=200, part="r", source="https://github.com/hendrycks/imagenet-r"),
    "imagenet_sketch": ClassTask("openai", size=50_889, classes=1000, part="all", source="https://github.com/HaohanWang/ImageNet-Sketch"),
    "imagenetv2": ClassTask("openai", size=10_000, classes=1000, part="places", source="https://huggingface.co/datasets/vaishaal/ImageNetV2"),
    "kitti": ClassTask("kitti", classes=4),
    "mnist": ClassTask("mnist", size=10_000, classes=10),
    "objectnet": ClassTask("openai", size=18_574, classes=113, part="objectnet", source="https://objectnet.dev"),
    "pcam": ClassTask("pcam", size=32_768, classes=2),
    "pets": ClassTask("pets", PER_CLASS, 3669, 37),
    "renderedsst2": ClassTask("renderedsst2", size=1821, classes=2),
    "resisc45": ClassTask("resisc45", classes=45),
    "stl10": ClassTask("stl10", size=8000, classes=10),
    "sun397": ClassTask("sun397", classes=397),
    "voc2007": ClassTask("voc2007", "mean_average_precision_11", 4952, 20),
}  # fmt: skip
"""name -> what is known of the set."""
