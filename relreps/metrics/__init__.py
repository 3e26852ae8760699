"""Measures of how alike two spaces are.

Retrieval follows arXiv:2209.15430: row i of ``y`` is the right answer for row i of ``x``, and is
not taken out of the list of candidates. Measures are not differentiable unless they say so.
"""

from relreps.metrics.cca import mean_cca, pwcca, svcca
from relreps.metrics.cka import kernel_cka, linear_cka, minibatch_cka
from relreps.metrics.cka_stream import CKA, MinibatchCKA
from relreps.metrics.declarations import MEASURES, Measure, measures_markdown
from relreps.metrics.dissimilarity import distance_correlation, rsa
from relreps.metrics.divergence import rtd_lite
from relreps.metrics.layers import LayerComparison, compare_layers
from relreps.metrics.neighbors import MutualKNN, cknna, mutual_knn, neighborhood_jaccard
from relreps.metrics.permutation import PermutationTest, permutation_test
from relreps.metrics.proxy import latent_similarity
from relreps.metrics.regression import regression_r2
from relreps.metrics.retrieval import (
    RetrievalResult,
    RetrievalScores,
    jaccard_at_k,
    mean_reciprocal_rank,
    recall_at_k,
    retrieval_ranks,
    retrieval_scores,
)
from relreps.metrics.shape import procrustes_distance, shape_distance

__all__ = [
    "CKA",
    "MEASURES",
    "LayerComparison",
    "Measure",
    "MinibatchCKA",
    "MutualKNN",
    "PermutationTest",
    "RetrievalResult",
    "RetrievalScores",
    "cknna",
    "compare_layers",
    "distance_correlation",
    "jaccard_at_k",
    "kernel_cka",
    "latent_similarity",
    "linear_cka",
    "mean_cca",
    "mean_reciprocal_rank",
    "measures_markdown",
    "minibatch_cka",
    "mutual_knn",
    "neighborhood_jaccard",
    "permutation_test",
    "procrustes_distance",
    "pwcca",
    "recall_at_k",
    "regression_r2",
    "retrieval_ranks",
    "retrieval_scores",
    "rsa",
    "rtd_lite",
    "shape_distance",
    "svcca",
]
