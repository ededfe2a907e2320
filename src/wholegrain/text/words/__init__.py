"""What the rules know of language: tokens, grammar, word lists, and what is said of a picture."""
