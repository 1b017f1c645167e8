"""What a room has to know of a rule, without importing torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """What can be said of a rule with given hyper-parameters.

    A rule declares them as a static method `traits` of its class, which gets the hyper-parameters by name; a class
    from elsewhere may have one too, or a plain attribute. The method also raises ValueError for hyper-parameters that
    do not fit together, which is so told before anything runs.

    Attributes:
        entrywise: every entry moves by its own gradient alone. So equal entries stay equal, and runs stacked along a
            leading dimension are as if alone.
        rotations: the step commutes with rotations of each parameter's space and is a combination of the gradients
            seen so far, so that it may be taken in coordinates of their span (weight decay shrinks the rest too).
        needs_loss: every step needs a closure, which makes the gradients and returns the loss: shape (runs,) where
            runs are stacked.
        one_norm: all entries act together, as in one norm over them, and it does not matter which tensor one lies in.
            So all weights of a net may lie in one tensor.
        per_run: the hyper-parameters that may be tensors of shape (runs,), one value for each stacked run.
    """

    entrywise: bool = False
    rotations: bool = False
    needs_loss: bool = False
    one_norm: bool = False
    per_run: tuple[str, ...] = ()
