"""What a training step costs, beside open_clip's own trainer, step by step in turn in one run."""
