"""A call of every public function of tensors, for the tests of what all of them promise.

A new function joins by a line of `CALLS`. Inputs are float64; the tests bring them to other types.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

import relreps
from relreps import (
    anchors,
    correspondence,
    metrics,
    moments,
    normalization,
    parity,
    projection,
    spectral_loss,
    topo_loss,
    translate,
)
from relreps import similarity as similarities
from relreps.similarity import Similarity


@dataclass(frozen=True)
class Call:
    """A function of tensors, and what to give it.

    Attributes:
        function: From the tensors to one or several, or to a report.
        inputs: Makes them.
        order: How often it may be differentiated: 0, 1, or 2 for as often as wanted.
        batches: Whether `torch.vmap` takes it: what looks at values is refused by name.
        half: Largest error of a half type, relative to the result; None where a choice is made.
        held: Whether a part of it is a constant to autograd, which the docstring says.
        refuses: Whether inputs are checked: not by what is only given checked ones.
    """

    function: Callable
    inputs: Callable
    order: int = 2
    batches: bool = True
    half: float | None = 0.05
    held: bool = False
    refuses: bool = True


def draw(*shape, seed=1):
    """Normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu")


def pair(n, d, e, seed=1):
    """Two encodings of the same rows that have something in common."""
    x = draw(n, d, seed=seed)
    return x, 2 * x @ draw(d, e, seed=seed + 1) + 0.5 * draw(n, e, seed=seed + 2) + 1


def of(function, *shapes, **options):
    """The call of a function of independent normal tensors of these shapes."""
    inputs = [partial(draw, *shape, seed=seed) for seed, shape in enumerate(shapes)]
    return Call(function, lambda: tuple(make() for make in inputs), **options)


def of_pair(function, n=12, d=4, e=3, **options):
    """The call of a function of two encodings."""
    return Call(function, lambda: pair(n, d, e), **options)


def labels(n=24, classes=3):
    """Classes that take turns."""
    return torch.arange(n, device="cpu") % classes


def lengths(function, **options):
    """The call of a function of death times."""
    return Call(function, lambda: (draw(3, 6).abs().sort(-1).values,), **options)


def seeds():
    """The pairs that are known."""
    return (torch.arange(8, device="cpu"),) * 2


def generator():
    """A source of randomness, the same at each call."""
    return torch.Generator().manual_seed(0)


def sparse_pair(x, y):
    """Scores of two sparse codes."""
    return projection.sparse_scores(x.relu().to_sparse_csr(), y.relu().to_sparse_csr())


def decoded(x):
    """The report of a decoder on these rows."""
    return translate.scale_invariance_report(lambda z: z.double() @ HEAD, x)


def reported(x, y):
    """The report of a map on these rows."""
    with torch.device("cpu"):
        made = translate.ProcrustesTranslator(4, 3).double()
    return translate.translation_report(made, x, y, generator=generator())


def positive(*shapes):
    """What makes positive numbers of these shapes."""
    return lambda: tuple(draw(*shape, seed=seed).abs() for seed, shape in enumerate(shapes))


def gaps(x):
    """City-block distances of rows."""
    return (x[:, None] - x).abs().sum(-1)


HEAD = draw(4, 3)

#: What chooses, rather than measures.
CHOICE = {"order": 0, "batches": False, "half": None}

CALLS = {
    # similarities
    **{
        name: of(getattr(similarities, name), (6, 4), (5, 4))
        for name in ("cosine", "angular", "inner", "euclidean", "l1", "linf")
    },
    # What counts as rank is a matter of the type.
    "basis": of(similarities.basis, (6, 4), (5, 4), half=None),
    "relative_projection": of(relreps.relative_projection, (6, 4), (5, 4)),
    "sparse_scores": of(sparse_pair, (8, 4), (9, 4), order=0, batches=False, refuses=False),
    # normalization, moments
    "center": of(normalization.center, (6, 4), (4,)),
    "standard_scale": of(normalization.standard_scale, (6, 4), (4,), (4,)),
    "inverse_standard_scale": of(normalization.inverse_standard_scale, (6, 4), (4,), (4,)),
    "unit_norm": of(normalization.unit_norm, (6, 4)),
    "whiten": of(normalization.whiten, (6, 4), (4,), (4, 4)),
    "elementwise": of(moments.elementwise, (6, 4), (6, 4), refuses=False),
    "outer": of(moments.outer, (6, 4), (6, 3), refuses=False),
    "row_moments": of(
        lambda x: moments.row_moments(x, product=moments.outer).scatters[0], (6, 4), refuses=False
    ),
    "finite_moments": of(
        lambda x: moments.finite_moments(moments.row_moments, x).scatters[0],
        (6, 4),
        batches=False,
        refuses=False,
    ),
    # anchors
    "anchor_report": of(anchors.anchor_report, (6, 4), (9, 4), **CHOICE),
    "cluster_labels": of(
        lambda x: anchors.cluster_labels(x, 3, generator=generator()), (20, 4), **CHOICE
    ),
    "coverage_loss": of(anchors.coverage_loss, (9, 4), (5, 4)),
    "diversity_loss": of(anchors.diversity_loss, (5, 4)),
    "leverage_scores": of(anchors.leverage_scores, (9, 4), order=0, batches=False),
    "pivoted_anchors": of(anchors.pivoted_anchors, (6, 4), **CHOICE),
    "prototypes": of(lambda x: anchors.prototypes(x, labels(12)), (12, 4)),
    "prune_anchors": of(partial(anchors.prune_anchors, threshold=0.1), (6, 4), **CHOICE),
    # correspondence
    "csls": of(partial(correspondence.csls, k=3), (8, 4), (7, 4)),
    "discover_parallel_anchors": of_pair(
        lambda x, y: correspondence.discover_parallel_anchors(
            x, y, seeds(), 12, generator=generator()
        ),
        12,
        **CHOICE,
    ),
    "discover_parallel_anchors_unsupervised": of_pair(
        lambda x, y: correspondence.discover_parallel_anchors_unsupervised(
            x, y, 10, num_clusters=3, num_starts=1, generator=generator()
        )[0],
        12,
        **CHOICE,
    ),
    "functional_map": Call(
        partial(correspondence.functional_map, alpha=1.0), positive((3, 12), (3, 12), (3,), (3,))
    ),
    "mutual_nearest": of(partial(correspondence.mutual_nearest, k=3), (8, 4), (7, 4), **CHOICE),
    # maps
    "procrustes": of_pair(translate.procrustes, order=1),
    "linear_map": of_pair(translate.linear_map),
    "rcsls_loss": of_pair(partial(translate.rcsls_loss, k=3), e=4),
    "scale_invariance_report": of(decoded, (9, 4), **CHOICE),
    "translation_report": of_pair(reported, **CHOICE),
    # measures
    "linear_cka": of_pair(metrics.linear_cka),
    "linear_cka, debiased": of_pair(partial(metrics.linear_cka, debiased=True)),
    "linear_cka, wide": of_pair(metrics.linear_cka, 5, 9, 8),
    "kernel_cka": of_pair(metrics.kernel_cka, held=True),
    "minibatch_cka": of_pair(partial(metrics.minibatch_cka, batch_size=8)),
    "distance_correlation": of_pair(metrics.distance_correlation),
    "rsa": of_pair(metrics.rsa, order=0, batches=False),
    "rsa, pearson": of_pair(partial(metrics.rsa, compare="pearson")),
    "rsa, cosine": of_pair(partial(metrics.rsa, rdm="cosine", compare="cosine")),
    "latent_similarity": of_pair(
        lambda x, y: metrics.latent_similarity(x, y, torch.arange(5, device="cpu"))
    ),
    "procrustes_distance": of_pair(metrics.procrustes_distance, order=1),
    "shape_distance": of_pair(metrics.shape_distance, order=1),
    "shape_distance, in part": of_pair(partial(metrics.shape_distance, alpha=0.5), order=1),
    "regression_r2": of_pair(metrics.regression_r2, order=1),
    "mean_cca": of_pair(metrics.mean_cca, order=0),
    "svcca": of_pair(metrics.svcca, order=0, half=None),
    "pwcca": of_pair(metrics.pwcca, order=0),
    **{
        name: of_pair(partial(getattr(metrics, name), k=5), e=4, **CHOICE)
        for name in (
            *("mutual_knn", "neighborhood_jaccard", "cknna", "jaccard_at_k", "recall_at_k"),
            *("retrieval_scores", "mean_reciprocal_rank"),
        )
    },
    "retrieval_ranks": of_pair(metrics.retrieval_ranks, e=4, **CHOICE),
    # topology and spectra
    "death_times": of(topo_loss.death_times, (9, 3)),
    "edge_lengths": of(
        lambda x: topo_loss.edge_lengths(x, torch.tensor([[0, 1], [2, 7]], device="cpu")), (9, 3)
    ),
    "minimum_spanning_tree": Call(
        topo_loss.minimum_spanning_tree, lambda: (gaps(draw(9, 3)),), order=0, half=None
    ),
    "topological_densification_loss": of(
        lambda z: topo_loss.topological_densification_loss(z, 1.0, labels(12)), (12, 3)
    ),
    "metrics.rtd_lite": of_pair(metrics.rtd_lite, 9),
    "topo_loss.rtd_lite": of_pair(topo_loss.rtd_lite, 9),
    "signature_loss": of_pair(topo_loss.signature_loss, 9),
    "wasserstein_h0": Call(topo_loss.wasserstein_h0, positive((6,), (6,))),
    "death_time_quantiles": of(topo_loss.death_time_quantiles, (9, 3), order=0, batches=False),
    "persistent_entropy": lengths(topo_loss.persistent_entropy),
    "total_persistence": lengths(partial(topo_loss.total_persistence, p=2.0)),
    "mass_concentration_bound": Call(
        lambda p: topo_loss.mass_concentration_bound(p, 16, 5, 0.9),
        lambda: (torch.tensor([0.1, 0.3], dtype=torch.float64, device="cpu"),),
        order=0,
        batches=False,
        refuses=False,  # numbers, too
    ),
    "spectral_gap": of(partial(spectral_loss.spectral_gap, components=3, k=4), (12, 3), held=True),
    "both_placements": of(parity.both_placements, (), (), refuses=False),
}

#: Public functions without a line, and why.
NO_CALL = {
    "assert_invariant": "a test of a code",
    "assert_not_invariant": "a test of a code",
    "compare_layers": "takes networks",
    "cyclic_annealing": "takes numbers",
    "deviation": "a test of a code",
    "intertwiner": "takes names",
    "measures_markdown": "takes nothing",
    "permutation_test": "takes a measure",
    "random_transformation": "takes names",
    "residues": "takes names",
    "stitching_matrix": "takes networks",
}


def member_of(module, name, member):
    """Whether a module without a list of its names, which is one of its own, offers this one."""
    private = name.startswith("_") or module.__name__.count(".") > 1
    return not private and getattr(member, "__module__", "") == module.__name__


def public_functions():
    """Every function of a public package by its name, and its similarities."""
    names = [info.name for info in pkgutil.walk_packages(relreps.__path__, "relreps.")]
    skipped = ("._", ".integrations", ".plots", "__main__")
    modules = [importlib.import_module(n) for n in names if not any(s in n for s in skipped)]
    found = {}
    for module in modules:
        offered = getattr(module, "__all__", None)
        for name, member in vars(module).items():
            public = name in offered if offered else member_of(module, name, member)
            if public and (inspect.isfunction(member) or isinstance(member, Similarity)):
                found.setdefault(name, member)
    return found
