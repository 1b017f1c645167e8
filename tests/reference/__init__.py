"""Plain, readable twins of the fast code: one run at a time, dense, autograd. Tests and benchmarks compare."""
