"""Tests that modules of this kind should pass, for your own as for ours.

`assert_invariant` and `assert_not_invariant` check a declared invariance on random data;
`CONTRACT` is the list of things every module here promises, one function each.
"""

from relreps.testing.contract import CONTRACT
from relreps.testing.intertwiners import ACTIVATIONS, intertwiner
from relreps.testing.invariance import (
    assert_invariant,
    assert_not_invariant,
    deviation,
    random_transformation,
)

__all__ = [
    "ACTIVATIONS",
    "CONTRACT",
    "assert_invariant",
    "assert_not_invariant",
    "deviation",
    "intertwiner",
    "random_transformation",
]
