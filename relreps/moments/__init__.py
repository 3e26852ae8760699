"""Counts, means and centred second moments of rows, in float64: a value, and streams around it."""

from relreps.moments.rows import finite_moments, row_moments
from relreps.moments.stream import FeatureMoments, Moments, MomentStream
from relreps.moments.value import RowMoments, elementwise, outer

__all__ = [
    "FeatureMoments",
    "MomentStream",
    "Moments",
    "RowMoments",
    "elementwise",
    "finite_moments",
    "outer",
    "row_moments",
]
