"""``wholegrain ask``: questions about pictures, answered by a small language model on a model's visual tokens."""

from __future__ import annotations

from wholegrain.workflows.commands.ask import AskArguments


def ask(args: AskArguments) -> None:
    """Questions about pictures: LLaVA's projector and a small language model are trained on the visual tokens of a model (its image tower stays as it
    is, unless --tune says otherwise) and asked, by kind of question; beside that what they say without the picture and with another one.

    wholegrain ask base data/scenes --out results/ask

    The questions are made of scenes' records, balanced so that no answer to a question alone is right more often than by chance. Your own:

    wholegrain ask base photos --train-questions train.jsonl --questions test.jsonl

    The same command goes on with what is not finished. Under torchrun or srun all processes share the training.
    """
    from wholegrain.evaluation.show import print_results
    from wholegrain.workflows.commands.ask import ask as run

    done = run(args)
    if done is None:
        return
    print_results(done.results)
    print(f"written: {done.folder / 'results.json'}, {done.page}")
    if args.save_llava is not None and args.save_llava.exists():
        print(f"written: {args.save_llava}, for LlavaForConditionalGeneration.from_pretrained")
    print(f"next: open {done.page}, or the same of another model, then: wholegrain compare OTHER {done.folder}")
