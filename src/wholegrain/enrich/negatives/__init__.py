"""False texts: word rules and their balance, negation, and the recipes of CE-CLIP, NegCLIP and random ones."""
