"""Question answering: a small causal language model that reads an image tower's tokens through a projector, as LLaVA does."""
