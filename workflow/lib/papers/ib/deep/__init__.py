"""The deep experiments of this paper."""
