"""Generators of what is fitted on pairs of rows: translators, streams of moments, discovery."""

import torch

from tests.fuzz.subject import Subject, of_module, subject
from tests.values.cases import find


def paired(d, features=None, typical=20):
    """Two spaces of the same samples, the second a turn of the first with some noise."""
    dtype = d.dtype()
    left, right = features or (d.size(1, 9), d.size(1, 9))
    n = d.number_of_rows(typical)
    x = d.rows(n, left, dtype)
    turn, related = d.normal(left, right), d.random.random() < 0.6
    y = d.rows(n, right, dtype, first=False)
    if related and "unrelated" not in d.without:
        y = (x.double() @ turn).to(dtype) if d.random.random() < 0.5 else y + (x @ turn.to(dtype))
    return x, y, left, right


OPTIONS = {
    "ProcrustesTranslator": lambda d: {
        "scale": d.pick("none", "umeyama", "norm"),
        "allow_reflection": d.pick(True, True, False),
        "pre": d.pick("center", "standard", "unit", None),
    },
    "LinearTranslator": lambda d: {"ridge": _ridge(d), "pre": d.pick(None, "unit")},
    "AffineTranslator": lambda d: {"ridge": _ridge(d), "pre": d.pick("center", "standard")},
    "ProcrustesRidgeTranslator": lambda d: {"ridge": _ridge(d)},
    "ReducedRankTranslator": lambda d: {"max_rank": 1, "ridge": _ridge(d)},
    "CCATranslator": lambda d: {"ridge": d.pick(0.0, 0.01), "pre": d.pick("center", "standard")},
    "WhitenedTranslator": lambda d: {"reweight": d.pick(0.0, 0.5, 1.0)},
    "PermutationTranslator": lambda d: {"signed": d.pick(True, False)},
    "RCSLSTranslator": lambda d: {"k": d.size(1, 6), "max_iterations": 3},
    "SGDAffineTranslator": lambda d: {"max_iterations": 3},
}
OPTIONS["LOrthoTranslator"] = OPTIONS["ProcrustesTranslator"]
#: Those whose answer does not depend on a start, a choice or a few steps.
CLOSED = {*OPTIONS} - {"PermutationTranslator", "RCSLSTranslator", "SGDAffineTranslator"}


def _ridge(d):
    return d.pick(0.0, 0.0, 0.1, "gcv", "loo")


@subject(*OPTIONS)
def translators(d, name):
    x, y, left, right = paired(d)
    options = OPTIONS[name](d)
    test = d.rows(d.size(0, 4), left, x.dtype, first=False)
    weights = d.normal(len(x)).abs() if d.random.random() < 0.2 else None
    ways = d.random.random()
    streams = name in CLOSED and options.get("ridge") != "loo" and ways < 0.3 and weights is None

    def fit(module, x, y, test):
        if streams:
            for part in zip(x.split(7), y.split(7), strict=True):
                module.partial_fit(*part)
            return module.solve()
        if name == "SGDAffineTranslator":
            return module.fit(x, y, generator=d.generator())
        return module.fit(x, y, *(() if weights is None else (weights.to(x.dtype),)))

    return of_module(
        lambda dtype: find(name)(left, right, **options).to(dtype),
        fit,
        lambda module, x, y, test: module(test),
        (x, y, test),
        kind="fit",
        shape=(len(test), right),
        unordered=(0, 1) if name in CLOSED and not streams and weights is None else (),
        exact=name in CLOSED,
        steps=streams,
        roundings=1e3,
    )


@subject("InverseRelativeTranslator")
def inverse_relative(d, name):
    x, y, left, right = paired(d, typical=10)
    test = d.rows(d.size(0, 4), left, x.dtype, first=False)
    options = {
        "ridge": d.pick(0.0, 0.1, "gcv"),
        "rescale": d.pick("none", "mean", "source"),
        "pruning": d.pick(0.0, 0.0, 0.2),
        "subspaces": d.pick(1, 1, 2),
    }
    if not len(x):
        x, y = x.new_ones(1, left), y.new_ones(1, right)
    return of_module(
        lambda dtype: find(name)(left, right, len(x), **options).to(dtype),
        lambda module, x, y, test: module.fit(x, y, generator=d.generator()),
        lambda module, x, y, test: module(test),
        (x, y, test),
        kind="fit",
        shape=(len(test), right),
        exact=options["pruning"] == 0 and options["subspaces"] == 1,
    )


@subject("RefinedProcrustesTranslator", "TransportTranslator", "FunctionalMapTranslator")
def translators_of_seeds(d, name):
    x, y, left, right = paired(d)
    test = d.rows(d.size(0, 4), left, x.dtype, first=False)
    known = torch.arange(min(len(x), d.size(0, 12)), device="cpu")
    options = {
        "RefinedProcrustesTranslator": {"k": d.size(1, 5), "max_iterations": 3},
        "TransportTranslator": {"epsilon": d.pick(0.002, 0.02, 0.1)},
        "FunctionalMapTranslator": {"num_functions": d.size(1, 9), "k": d.size(1, 6)},
    }[name]
    return of_module(
        lambda dtype: find(name)(left, right, **options).to(dtype),
        lambda module, x, y, test: module.fit(x, y, (known, known)),
        lambda module, x, y, test: module(test),
        (x, y, test),
        kind="fit",
        shape=(len(test), right),
        exact=False,
    )


@subject("GeneralizedProcrustes")
def generalized(d, name):
    x, y, left, right = paired(d)
    test, hub = d.rows(d.size(0, 4), left, x.dtype, first=False), max(left, right)
    rescale = d.pick(True, False)
    return of_module(
        lambda dtype: find(name)([left, right], hub, rescale=rescale, max_iterations=20).to(dtype),
        lambda module, x, y, test: module.fit([x, y]),
        lambda module, x, y, test: module.translate(test, 0, 1),
        (x, y, test),
        kind="fit",
        shape=(len(test), right),
        exact=False,
    )


@subject("procrustes", "linear_map")
def maps(d, name):
    x, y, left, right = paired(d)
    options = {"ridge": d.pick(0.0, 0.1)} if name == "linear_map" else {}
    return Subject(
        lambda x, y: find(name)(x, y, **options),
        (x, y),
        shape=(left, right),
        unordered=(0, 1),
        differentiable=True,
        roundings=1e3,
    )


@subject("translation_report")
def translation_report(d, name):
    x, y, left, right = paired(d, typical=30)
    kind = d.pick("ProcrustesTranslator", "LinearTranslator", "AffineTranslator")

    def call(x, y):
        return find(name)(find(kind)(left, right).to(x.dtype), x, y, generator=d.generator())

    return Subject(call, (x, y), exact=False, nan=False, builds=True)


@subject("scale_invariance_report")
def scale_report(d, name):
    x = d.rows(d.number_of_rows(), d.size(1, 6), d.dtype())
    weight = d.plain(x.shape[1], 3, torch.float64)
    return Subject(lambda x: find(name)(lambda z: z @ weight.to(x.dtype), x), (x,), exact=False)


@subject("Moments", "FeatureMoments")
def streams(d, name):
    x, y, left, right = paired(d)
    exact, weighted = d.pick(True, False), d.random.random() < 0.3
    weights = d.normal(len(x)).abs()

    def fit(module, x, y):
        for i in range(0, max(len(x), 1), 6):
            sides = (x, y) if name == "Moments" else (x,)
            given = {"weights": weights[i : i + 6].to(x.dtype)} if weighted else {}
            module.update(*(side[i : i + 6] for side in sides), **given)

    def use(module, x, y):
        if name == "FeatureMoments":
            return module.mean, module.variance
        return module.mean_x, module.mean_y, module.cov_xx, module.cov_xy, module.cov_yy

    make = {
        "Moments": lambda dtype: find(name)(left, right, exact=exact),
        "FeatureMoments": lambda dtype: find(name)(left),
    }[name]
    return of_module(make, fit, use, (x, y), steps=True)


@subject("row_moments", "finite_moments")
def moments_of_rows(d, name):
    x, y, _, _ = paired(d)
    exact, outer = d.pick(True, False), find("outer")

    def call(x, y):
        take = find("row_moments")
        if name == "finite_moments":
            found = find(name)(take, x)
        else:
            found = take(x, y, pairs=((0, 0), (0, 1)), product=outer, exact=exact)
        return found.total, *found.means, *found.scatters

    return Subject(call, (x, y), unordered=(0, 1))


@subject("elementwise", "outer")
def products(d, name):
    dtype, features = d.dtype(), d.size(1, 6)
    x, y = (d.rows(5, features, dtype, i == 0) for i in range(2))
    return Subject(find(name), (x, y))


@subject("discover_parallel_anchors", "discover_parallel_anchors_unsupervised")
def discovery(d, name):
    x, y, _, _ = paired(d, typical=30)
    number, known = d.size(1, 20), torch.arange(min(len(x), d.size(0, 9)), device="cpu")

    def call(x, y):
        if name == "discover_parallel_anchors":
            return find(name)(x, y, (known, known), number, generator=d.generator())
        return find(name)(x, y, number, num_clusters=4, num_starts=2, generator=d.generator())

    return Subject(call, (x, y), exact=False)


@subject("functional_map")
def functional_map(d, name):
    dtype, width = d.dtype(), d.size(1, 9)
    n = d.number_of_rows(6)
    x, y = (d.rows(n, width, dtype, i == 0) for i in range(2))
    values, alpha = torch.linspace(0, 1, n, dtype=torch.float64, device="cpu"), d.pick(0.0, 2.0)
    call = lambda x, y: find(name)(x, y, values.to(x.dtype), values.to(x.dtype), alpha)  # noqa: E731
    return Subject(call, (x, y), roundings=1e3)


@subject("csls", "rcsls_loss", "mutual_nearest")
def neighbors(d, name):
    x, y, _, _ = paired(d, (width := d.size(1, 9), width))
    k = d.size(1, 12)
    exact = name != "mutual_nearest"
    call = lambda x, y: find(name)(x, y, k)  # noqa: E731
    return Subject(call, (x, y), exact=exact, differentiable=exact)
