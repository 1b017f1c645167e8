"""What `tests.heavy_ball` imports: editing it reruns its runs too."""


def kept(difference, momentum):
    return momentum * difference
