"""Counts, means and centred second moments of rows, in float64: a value, and streams around it."""

from relreps.moments.stream import FeatureMoments, Moments
from relreps.moments.value import (
    RowMoments,
    elementwise,
    finite_moments,
    merged,
    outer,
    row_moments,
)

__all__ = [
    "FeatureMoments",
    "Moments",
    "RowMoments",
    "elementwise",
    "finite_moments",
    "merged",
    "outer",
    "row_moments",
]
