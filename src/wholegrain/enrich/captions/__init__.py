"""Captions in roles: prompts, endpoints and local models that answer them, and the budget."""
