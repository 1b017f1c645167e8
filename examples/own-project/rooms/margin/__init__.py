"""Logistic regression on separable points: the direction of descent tends to the largest margin."""
