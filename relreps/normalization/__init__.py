"""Normalisers: maps fitted on anchors that take a class of transformations out of a space.

Statistics come from the rows given to ``fit`` and from nothing else: the output for one row depends
neither on its batch nor on the train or eval mode. No epsilon is added anywhere, and squares are
taken in units of each feature: a space multiplied by 1e-30 or 1e30 (in float64 by 1e-300 or 1e200)
is normalised as well as the original.

Each function is the map for given statistics; the class below it in the same file remembers them.
"""

from relreps._core.invariance import ABSORBED, BROKEN, residues
from relreps.normalization.base import Affine, AffineNormalizer, Normalizer
from relreps.normalization.center import Center, center
from relreps.normalization.chain import NormalizerChain
from relreps.normalization.scale import (
    IsotropicScale,
    StandardScale,
    UnitNorm,
    inverse_standard_scale,
    standard_scale,
    unit_norm,
)
from relreps.normalization.whiten import Whiten, whiten

__all__ = [
    "ABSORBED",
    "BROKEN",
    "Affine",
    "AffineNormalizer",
    "Center",
    "IsotropicScale",
    "Normalizer",
    "NormalizerChain",
    "StandardScale",
    "UnitNorm",
    "Whiten",
    "center",
    "inverse_standard_scale",
    "residues",
    "standard_scale",
    "unit_norm",
    "whiten",
]
