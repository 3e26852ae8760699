"""Generators of what gives one result of many rows: measures, losses, trees, anchors."""

import torch
from torch import nn

from tests.fuzz.fits import paired
from tests.fuzz.subject import Subject, subject
from tests.values.cases import find

#: Measures with a number of neighbours.
NEAREST = ("mutual_knn", "neighborhood_jaccard", "cknna", "jaccard_at_k", "recall_at_k")
MEASURES = (
    *("linear_cka", "kernel_cka", "minibatch_cka", "mean_cca", "svcca", "pwcca", "regression_r2"),
    *("procrustes_distance", "shape_distance", "rsa", "distance_correlation", "metrics.rtd_lite"),
    *("latent_similarity", "mean_reciprocal_rank", *NEAREST),
)
METRICS = ("l1", "l2", "sqeuclidean", "linf", "cosine", ("lp", 3.0), ("fp", 0.7))


@subject(*MEASURES)
def measures(d, name):
    alike = name in ("mean_reciprocal_rank", "jaccard_at_k", "recall_at_k")
    x, y, _, _ = paired(d, (width := d.size(1, 9), width) if alike else None)
    declared = find("MEASURES")[name.rpartition(".")[2]]
    number, variant = d.size(1, 12), d.random.randrange(3)
    drawn = d.integers(len(x), number)
    options = {
        "linear_cka": [{}, {"debiased": True}],
        "kernel_cka": [{}, {"debiased": True}, {"bandwidth": 0.3}],
        "minibatch_cka": [{"batch_size": max(number, 4)}, {"batch_size": 4, "kernel": "rbf"}],
        "svcca": [{}, {"variance": 0.6}],
        "rsa": [{}, {"compare": "pearson"}, {"rdm": "cosine"}],
        "shape_distance": [{}, {"alpha": 0}, {"alpha": 0.5}],
        "latent_similarity": [{"anchors": drawn}, {"anchors": drawn, "centered": True}],
        "mutual_knn": [{"k": number}, {"k": number, "calibrated": True}],
        **{each: [{"k": number}] for each in NEAREST[1:]},
    }.get(name, [{}])
    chosen = options[variant % len(options)]
    low = -1.0 if chosen.get("debiased") or chosen.get("calibrated") else declared.low
    if chosen.get("calibrated"):
        low = -torch.inf
    rows = name not in ("minibatch_cka", "latent_similarity")
    return Subject(
        lambda x, y: find(name)(x, y, **chosen),
        (x, y),
        shape=(),
        unordered=(0, 1) if rows else (),
        low=low,
        high=declared.high,
        differentiable=declared.differentiable,
        notes=chosen,
    )


@subject("permutation_test")
def permutation_test(d, name):
    x, y, _, _ = paired(d)
    measure, number = d.pick("linear_cka", "mutual_knn", "procrustes_distance"), d.size(1, 9)

    def call(x, y):
        options = {"num_permutations": number, "generator": d.generator()}
        return find(name)(find(measure), x, y, **options)

    return Subject(call, (x, y), shape=(), exact=False)


@subject("retrieval_scores", "retrieval_ranks")
def retrieval(d, name):
    x, y, _, _ = paired(d, (width := d.size(1, 9), width))
    options = {"k": d.size(1, 12)} if name == "retrieval_scores" else {}
    return Subject(lambda x, y: find(name)(x, y, **options), (x, y), exact=False)


@subject(
    *("metrics.CKA", "MinibatchCKA", "metrics.MutualKNN", "metrics.RetrievalScores"),
    *("torchmetrics.CKA", "torchmetrics.MutualKNN", "torchmetrics.RetrievalScores"),
)
def streams(d, name):
    alike = name.endswith("RetrievalScores")
    x, y, left, right = paired(d, (width := d.size(1, 9), width) if alike else None)
    k, debiased, batch = d.size(1, 9), d.pick(True, False), d.size(4, 12)
    kind = name.rpartition(".")[2]

    def make(dtype=None):
        if kind == "CKA":
            return find(name)(left, right, debiased)
        return find(name)() if kind == "MinibatchCKA" else find(name)(k)

    def call(x, y):
        made = make()
        for part in zip(x.split(batch), y.split(batch), strict=True):
            made.update(*part)
        return made.compute()

    ordered = kind == "MinibatchCKA"
    return Subject(
        call, (x, y), unordered=() if ordered else (0, 1), exact=kind == "CKA", builds=True
    )


@subject("compare_layers", "stitching_matrix")
def tables(d, name):
    dtype, features = d.dtype(), d.size(1, 6)
    x = d.rows(d.number_of_rows(12), features, dtype)
    weights = d.plain(3, features, torch.float64), d.plain(5, features, torch.float64)

    def call(x):
        parts = [nn.Linear(features, len(w), bias=False, device="cpu") for w in weights]
        for part, weight in zip(parts, weights, strict=True):
            part.weight.data = weight.to(x.dtype)
        a, b = (nn.Sequential(part, nn.Tanh()) for part in parts)
        if name == "compare_layers":
            return find(name)(a, b, [x], find("linear_cka")).scores
        heads = {"a": nn.Identity(), "b": nn.Identity()}
        return find(name)({"a": a, "b": b}, heads, x, torch.mean).scores

    return Subject(
        call, (x,), exact=False, parameters=True, builds=True, nan=name != "stitching_matrix"
    )


# Clouds of points


def cloud(d, features=None, first=True, dtype=None):
    return d.rows(d.number_of_rows(12), features or d.size(1, 6), dtype or d.dtype(), first)


@subject("death_times", "TopologicalDensificationLoss", "topological_densification_loss")
def densification(d, name):
    x, metric, method = cloud(d), d.pick(*METRICS), d.pick("auto", "prim", "boruvka", "closure")
    labels = torch.arange(len(x), device="cpu") % d.size(1, 3)
    scale, mode = d.pick(0.1, 1.0, 10.0), d.pick("abs", "square", "hinge")

    def call(x):
        if name == "death_times":
            return find(name)(x, metric, method)
        if name == "topological_densification_loss":
            return find(name)(x, scale, labels, mode=mode, metric=metric, method=method)
        return find(name)(scale, mode=mode, metric=metric, method=method)(x, labels)

    deaths = name == "death_times"
    return Subject(
        call,
        (x,),
        shape=(max(len(x) - 1, 0),) if deaths else (),
        unordered=(0,) if deaths else (),
        low=0.0,
        differentiable=True,
    )


@subject("minimum_spanning_tree")
def spanning_tree(d, name):
    x = cloud(d)
    method = d.pick("auto", "prim", "boruvka", "closure", "single_linkage")

    def call(x):
        distances = (x[:, None] - x[None]).abs().sum(-1)
        edges = find(name)(distances, method)
        return distances[edges[:, 0], edges[:, 1]].sum()

    return Subject(call, (x,), unordered=(0,), low=0.0, shape=())


@subject("edge_lengths")
def edge_lengths(d, name):
    x, metric, number = cloud(d), d.pick(*METRICS), d.size(0, 6)
    edges = d.integers(len(x), number, 2)
    return Subject(lambda x: find(name)(x, edges, metric), (x,), low=0.0, nan=False)


@subject("RTDLiteLoss", "topo_loss.rtd_lite", "SignatureLoss", "signature_loss")
def losses_of_two_clouds(d, name):
    x, y, _, _ = paired(d, typical=12)
    metric, quantile = d.pick(*METRICS), d.pick(0.5, 0.9)
    normalize, squared = d.pick("max", "none"), d.pick(True, False)

    def call(x, y):
        if name == "RTDLiteLoss":
            return find(name)(metric=metric, quantile=quantile)(x, y)
        if name == "topo_loss.rtd_lite":
            return find(name)(x, y, metric=metric, quantile=quantile)
        options = {"metric": metric, "normalize": normalize, "squared": squared}
        if name == "SignatureLoss":
            return find(name)(**options)(x, y)
        return find(name)(x, y, **options)

    return Subject(call, (x, y), shape=(), unordered=(0, 1), low=0.0, differentiable=True)


@subject("ConnectivityLoss")
def connectivity(d, name):
    x, metric, scale = cloud(d), d.pick("l1", "l2"), d.pick(0.5, 2.0)
    call = lambda x: find(name)(scale, metric=metric)(x)  # noqa: E731
    return Subject(call, (x,), shape=(), unordered=(0,), low=0.0, differentiable=True)


@subject("death_time_quantiles")
def quantiles(d, name):
    x = cloud(d)
    return Subject(lambda x: find(name)(x, metric="l1"), (x,), unordered=(0,), low=0.0)


@subject("persistent_entropy", "total_persistence", "wasserstein_h0")
def of_deaths(d, name):
    x = cloud(d, features=(width := d.size(1, 9))).abs()
    y, q = d.rows(len(x), width, x.dtype, first=False).abs(), d.pick(1.0, 2.0, 3.0)
    if name == "wasserstein_h0":
        return Subject(lambda x, y: find(name)(x, y, q), (x, y), low=0.0, differentiable=True)
    options = {"p": q} if name == "total_persistence" else {}
    return Subject(lambda x: find(name)(x, **options), (x,), low=0.0, differentiable=True)


@subject("mass_concentration_bound")
def mass_concentration(d, name):
    p = d.normal(d.size(0, 5)).sigmoid().to(d.dtype())
    b, low = d.size(2, 9), d.size(1, 3)
    return Subject(lambda p: find(name)(p, b, low, 0.5), (p,), nan=False)


@subject("both_placements")
def placements(d, name):
    before, after = (d.rows(1, 1, d.pick(torch.float32)).reshape(()) for _ in range(2))
    d.bad_rows.clear()
    return Subject(find(name), (before, after), shape=(), differentiable=True, nan=False)


@subject("SpectralGapLoss", "spectral_gap")
def spectral_gaps(d, name):
    x, k, components = cloud(d), d.size(1, 6), d.size(1, 3)
    graph, dense = d.pick("knn", "heat"), d.pick("auto", "dense")
    labels = torch.arange(len(x), device="cpu") % components

    def call(x):
        if name == "spectral_gap":
            return find(name)(x, components, k=k, graph=graph, solver=dense)
        return find(name)(k, graph=graph, solver=dense)(x, labels)

    return Subject(call, (x,), shape=(), exact=False, differentiable=True)


# Anchors


@subject(
    *("BestAlignedAnchors", "FarthestAnchors", "LeverageAnchors", "ClusterAnchors"),
    *("KMeansAnchors", "StratifiedAnchors", "TopKAnchors", "UniformAnchors"),
)
def samplers(d, name):
    x, y, _, _ = paired(d)
    number, clusters = d.size(1, 8), d.size(1, 5)
    labels = torch.arange(len(x), device="cpu") % 3
    normalize = d.pick(True, False)

    def call(x, y):
        options = {"generator": d.generator()}
        if name == "BestAlignedAnchors":
            return find(name)(number, y, normalize=normalize)(x)
        if name == "TopKAnchors":
            return find(name)(number, y[:, 0], **options)(x)
        if name not in ("StratifiedAnchors", "UniformAnchors"):
            options["normalize"] = normalize
        sizes = (number, clusters) if name == "ClusterAnchors" else (number,)
        return find(name)(*sizes, **options)(x, labels)

    blind = name in ("UniformAnchors", "StratifiedAnchors", "TopKAnchors")
    return Subject(call, (x, y), shape=(number,), exact=False, nan=not blind)


@subject("cluster_labels", "leverage_scores", "pivoted_anchors", "prune_anchors", "anchor_report")
def subsets(d, name):
    x, number = cloud(d), d.size(1, 6)
    normalize, threshold = d.pick(True, False), d.pick(0.01, 0.3)

    def call(x):
        match name:
            case "cluster_labels":
                return find(name)(x, number, normalize=normalize, generator=d.generator())
            case "leverage_scores":
                return find(name)(x, normalize=normalize)
            case "pivoted_anchors":
                return find(name)(x, number)
            case "prune_anchors":
                return find(name)(x, threshold)
            case _:
                return find(name)(x, normalize=normalize)

    scores = name == "leverage_scores"
    return Subject(call, (x,), exact=scores, shape=(len(x),) if scores else None)


@subject("prototypes")
def prototypes(d, name):
    x, classes = cloud(d), d.size(1, 3)
    labels = torch.arange(len(x), device="cpu") % classes
    call = lambda x: find(name)(x, labels)  # noqa: E731
    return Subject(call, (x,), differentiable=True)


@subject("coverage_loss", "diversity_loss")
def losses_of_anchors(d, name):
    x = cloud(d)
    anchors = d.rows(d.size(1, 6), x.shape[1], x.dtype, first=False)
    options = {"normalize": d.pick(True, False), "temperature": d.pick(0.0, 0.3)}
    if name == "diversity_loss":
        return Subject(find(name), (x,), shape=(), differentiable=True)
    call = lambda x, anchors: find(name)(x, anchors, **options)  # noqa: E731
    return Subject(call, (x, anchors), shape=(), differentiable=True)


@subject("ClassBatchSampler", "cyclic_annealing")
def batches(d, name):
    labels, per_class = d.integers(d.size(1, 4), d.size(0, 30)), d.size(1, 4)
    step = d.rows(1, 1, torch.float64)

    def call(step):
        if name == "ClassBatchSampler":
            drawn = [torch.tensor(batch, device="cpu") for batch in find(name)(labels, per_class)]
            assert all(len(batch.unique()) == len(batch) for batch in drawn)
            return tuple(drawn)
        return find(name)(float(step.abs()), 100.0)

    return Subject(call, (step,), nan=False, exact=False)


# Pictures and tests for modules


@subject(
    *("plot_anchors", "plot_barcode", "plot_death_times", "plot_image_rows", "plot_layers"),
    *("plot_proxy", "plot_retrieval_curve", "plot_spaces", "plot_stitching_matrix"),
)
def pictures(d, name):
    x = cloud(d, features=3)

    def call(x):
        from matplotlib.figure import Figure

        ax, function = Figure().add_subplot(), find(name)
        match name:
            case "plot_anchors":
                function(x, x[:2], ax=ax)
            case "plot_barcode" | "plot_death_times":
                function({"a": x[:, 0].abs()}, ax=ax)
            case "plot_image_rows":
                function({"a": x[None]}, ax=ax)
            case "plot_layers":
                names = [str(i) for i in range(len(x))]
                function(find("LayerComparison")(x, names, ["a", "b", "c"]), ax=ax)
            case "plot_stitching_matrix":
                names = [str(i) for i in range(len(x))]
                function(find("StitchingMatrix")(x, names, ["a", "b", "c"]), ax=ax)
            case "plot_proxy":
                function(x[:, 0], x[:, 1], ax=ax)
            case "plot_retrieval_curve":
                function({"a": x[:, 0].abs() + 1}, ax=ax)
            case "plot_spaces":
                function({"a": x}, axes=[ax])
        return torch.zeros((), device="cpu")

    return Subject(call, (x,), nan=False, exact=False, builds=True)


@subject("intertwiner", "random_transformation")
def random_maps(d, name):
    x = d.plain(4, width := d.size(1, 9), torch.float64)
    activation = d.pick(*find("ACTIVATIONS"))
    change = d.pick("rotation", "permutation", "affine", "linear", "sample_scale", "translation")

    def call(x):
        if name == "intertwiner":
            return find(name)(activation, width, generator=d.generator())
        return find(name)(change, width, generator=d.generator())(x)

    return Subject(call, (x,), exact=False, builds=True)


@subject("assert_invariant", "assert_not_invariant", "deviation")
def invariances(d, name):
    dtype, width = d.pick(torch.float32, torch.float64), d.size(2, 6)
    x, anchors = d.plain(5, width, dtype), d.plain(7, width, dtype)
    change = "rotation" if name == "assert_invariant" else "translation"

    def call(x, anchors):
        code = find("relative_projection")
        with torch.autocast("cpu", enabled=False):  # no code is exact in bfloat16
            found = find(name)(code, change, x, anchors, generator=d.generator())
        return 0.0 if found is None else found

    return Subject(call, (x, anchors), exact=False)
