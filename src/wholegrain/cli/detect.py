"""``wholegrain detect``: open-vocabulary boxes by a head that is trained on a model's patches."""

from __future__ import annotations

from wholegrain.workflows.commands.detect import DetectArguments


def detect(args: DetectArguments) -> None:
    """Boxes of any names: OWL-ViT's heads are trained on the patches of a model (its image tower stays as it is, unless --tune says otherwise)
    and measured, with names that training never saw; beside them boxes out of the model's heat maps, without training.

    wholegrain detect base data/scenes --out results/detect

    The same command goes on with what is not finished. Under torchrun or srun all processes share the training.
    """
    from wholegrain.evaluation.show import print_results
    from wholegrain.workflows.commands.detect import detect as run

    done = run(args)
    if done is None:
        return
    print_results(done.results)
    print(f"written: {done.folder / 'results.json'}, {done.page}")
    print(f"next: open {done.page}, or the same of another model, then: wholegrain compare OTHER {done.folder}")
