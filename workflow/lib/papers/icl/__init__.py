"""In-Context Convergence of Transformers (ICML 2024): one softmax-attention layer learns linear functions in context.

`prompts` trains on sampled prompts, as the paper's experiments do; `population` follows gradient descent on the
population loss, as its theory does. Sections and equations are those of the project's specification of this paper.
"""
