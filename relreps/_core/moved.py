"""Names that people look for at the top of the package, and where they are."""

from __future__ import annotations

_HOMES: dict[str, str] = {
    "relreps.anchors": "AnchorReport BestAlignedAnchors ClusterAnchors Sampler cluster_labels "
    "coverage_loss diversity_loss leverage_scores pivoted_anchors",
    "relreps.correspondence": "Pairs csls discover_parallel_anchors_unsupervised functional_map "
    "mutual_nearest",
    "relreps.metrics": "LayerComparison CKA MinibatchCKA MutualKNN RetrievalScores cknna "
    "distance_correlation jaccard_at_k kernel_cka latent_similarity linear_cka mean_cca "
    "mean_reciprocal_rank minibatch_cka mutual_knn neighborhood_jaccard procrustes_distance pwcca "
    "recall_at_k regression_r2 retrieval_scores rsa rtd_lite shape_distance svcca",
    "relreps.moments": "FeatureMoments",
    "relreps.parity": "RunningRelativeProjection SGDAffineTranslator both_placements",
    "relreps.projection": "sparse_scores",
    "relreps.sampling": "cyclic_annealing",
    "relreps.spectral_loss": "spectral_gap",
    "relreps.stitching": "StitchingMatrix",
    "relreps.topo_loss": "ConnectivityLoss death_time_quantiles persistent_entropy signature_loss "
    "total_persistence wasserstein_h0",
    "relreps.translate": "PermutationTranslator ProcrustesRidgeTranslator RCSLSTranslator "
    "ReducedRankTranslator ScaleInvarianceReport TranslationReport WhitenedTranslator "
    "rcsls_loss scale_invariance_report",
}

#: Name -> full name. The last have another name, too.
MOVED = {name: f"{home}.{name}" for home, names in _HOMES.items() for name in names.split()} | {
    "AbstractSampler": "relreps.anchors.Sampler",
    "ParallelAnchors": "relreps.correspondence.Pairs",
    "UnsupervisedAnchors": "relreps.correspondence.Pairs",
}
