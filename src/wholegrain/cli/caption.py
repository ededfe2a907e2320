"""``wholegrain caption``: captions of pictures by a frozen language model that looks at a model's patches."""

from __future__ import annotations

from wholegrain.workflows.commands.caption import CaptionArguments


def caption(args: CaptionArguments) -> None:
    """What a model's patches let a language model say: a resampler and gated cross-attention (Flamingo's, as in SPARC) are trained between the two,
    which stay as they are; captions are scored by CIDEr and K-Precision and, of scenes, claim by claim: things that are not there, wrong attributes
    and relations, things left out.

    wholegrain caption base data/scenes --out results/caption

    wholegrain caption base data/photos --decoder models/gpt2

    The same command goes on with what is not finished. Under torchrun or srun all processes share the training.
    """
    from wholegrain.evaluation.show import print_results
    from wholegrain.workflows.commands.caption import caption as run

    done = run(args)
    if done is None:
        return
    print_results(done.results)
    print(f"written: {done.folder / 'results.json'}, {done.page}")
    print(f"next: open {done.page}, or the same of another model, then: wholegrain compare OTHER {done.folder}")
