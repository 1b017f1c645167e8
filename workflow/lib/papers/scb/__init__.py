"""Learning and Transferring Sparse Contextual Bigrams with Linear Transformers (NeurIPS 2024)."""
