"""In-Context Convergence of Transformers (ICML 2024): one softmax-attention layer learns linear functions in context.

`prompts` trains on sampled prompts, as the paper's experiments do; `population` follows gradient descent on the
population loss, as its theory does. The mathematics is in `docs/papers/icl.md`.
"""
