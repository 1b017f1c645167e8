"""Implicit Bias and Fast Convergence Rates for Self-attention (TMLR 2025): synthetic and deep experiments."""
