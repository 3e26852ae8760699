"""Similarities and distances of rows to anchors: ``(x, anchors) -> (..., A)``.

A similarity is an object that is a function: ``cosine = Cosine()`` and ``cosine(x, anchors)``. It
works in two steps, `Similarity.prepare` (what depends on the anchors alone) and
`Similarity.compare` (the rest, one product per call); `RelativeProjection` remembers the first.
Wherever a similarity is asked for, its name, the object or any callable of your own will do.

.. code-block:: text

    name       value for row x and anchor a         invariant to
    cosine     <x, a> / (|x| |a|)                   rotation, sample_scale
    angular    arccos(cosine) / pi                  rotation, sample_scale
    inner      <x, a>                               rotation
    euclidean  |x - a|_2                            rotation, translation
    l1         sum |x - a|                          permutation, translation
    linf       max |x - a|                          permutation, translation
    basis      coordinates w of x = sum w_j a_j     linear, if the anchors span the space
"""

from relreps.similarity.base import SIMILARITIES, Plain, Similarity, SimilarityLike
from relreps.similarity.distances import (
    L1,
    Distance,
    Euclidean,
    Linf,
    Rescaled,
    euclidean,
    l1,
    linf,
)
from relreps.similarity.geodesic import GraphGeodesic, RelativeGeodesic
from relreps.similarity.products import (
    Angular,
    Basis,
    Cosine,
    Inner,
    Parseval,
    angular,
    basis,
    cosine,
    inner,
)

__all__ = [
    "L1",
    "SIMILARITIES",
    "Angular",
    "Basis",
    "Cosine",
    "Distance",
    "Euclidean",
    "GraphGeodesic",
    "Inner",
    "Linf",
    "Parseval",
    "Plain",
    "RelativeGeodesic",
    "Rescaled",
    "Similarity",
    "SimilarityLike",
    "angular",
    "basis",
    "cosine",
    "euclidean",
    "inner",
    "l1",
    "linf",
]

SIMILARITIES.update(
    cosine=cosine,
    angular=angular,
    inner=inner,
    euclidean=euclidean,
    l1=l1,
    linf=linf,
    basis=basis,
)
