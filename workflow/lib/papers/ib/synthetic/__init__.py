"""The synthetic experiments of this paper."""
