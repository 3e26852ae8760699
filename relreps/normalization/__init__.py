"""Normalisers: maps fitted on anchors that take a class of transformations out of a space.

Statistics come from the rows given to ``fit`` and from nothing else: the output for one row depends
neither on its batch nor on the train or eval mode. No epsilon is added anywhere: a space multiplied
by 1e-6 is normalised as well as the original (in float32 down to about 1e-18, where the squares of
deviations underflow).

Each function is the map for given statistics; the module of the same purpose remembers them.
"""

from relreps.normalization.base import AbstractFittedNormalizer, AbstractNormalizer
from relreps.normalization.chain import NormalizerChain
from relreps.normalization.maps import (
    center,
    deviations,
    inverse_standard_scale,
    standard_scale,
    unit_norm,
    whiten,
)
from relreps.normalization.scale import Center, IsotropicScale, StandardScale, UnitNorm
from relreps.normalization.whiten import Whiten

__all__ = [
    "AbstractFittedNormalizer",
    "AbstractNormalizer",
    "Center",
    "IsotropicScale",
    "NormalizerChain",
    "StandardScale",
    "UnitNorm",
    "Whiten",
    "center",
    "deviations",
    "inverse_standard_scale",
    "standard_scale",
    "unit_norm",
    "whiten",
]
