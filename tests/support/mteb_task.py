"""A task of MTEB on pictures of one's own: zero-shot classification by three names of colours."""

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

COLOURS = ["red", "blue", "green"]


def colours_task(pictures):
    """The task, with picture n of class n."""

    class Colours(AbsTaskZeroShotClassification):
        metadata = TaskMetadata(
            name="ColoursZeroShot",
            description="Pictures by colour.",
            reference=None,
            dataset={"path": "made/here", "revision": "1"},
            type="ZeroShotClassification",
            category="i2t",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="accuracy",
            modalities=["text", "image"],
        )

        def load_data(self, *_, **__):
            features = Features({"image": Image(), "label": ClassLabel(names=COLOURS)})
            rows = {"image": list(pictures), "label": list(range(len(COLOURS)))}
            self.dataset = DatasetDict({"test": Dataset.from_dict(rows, features=features)})
            self.data_loaded = True

        def get_candidate_labels(self):
            return COLOURS

    return Colours()
