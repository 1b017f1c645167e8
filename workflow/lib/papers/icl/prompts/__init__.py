"""Training on sampled prompts: figures 2 and 3."""
