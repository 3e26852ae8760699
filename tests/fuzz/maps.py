"""Generators of what gives a row for each row: similarities, projections, codes, normalisers."""

import torch
from torch import nn

from tests.fuzz.subject import Subject, of_module, subject
from tests.values.cases import find

NAMED = ("cosine", "angular", "inner", "euclidean", "l1", "linf", "basis")
OBJECTS = ("Angular", "Basis", "Cosine", "Euclidean", "Inner", "L1", "Linf", "Parseval")


def anchored(d, rows=None):
    """Rows, anchors and their sizes; leading axes at times."""
    dtype, features, number = d.dtype(), d.size(1, 12), d.size(1, 15)
    n = d.number_of_rows(10) if rows is None else rows
    x = d.rows(n, features, dtype)
    anchors = d.rows(number, features, dtype, first=False)
    return x, anchors, features, number


@subject(*NAMED, *OBJECTS, "relative_projection")
def similarities(d, name):
    x, anchors, _, number = anchored(d)
    function = find(name)
    if name == "relative_projection":
        rule, plain = d.pick(*NAMED), function
        call = lambda x, anchors: plain(x, anchors, rule)  # noqa: E731
    else:
        call = function() if isinstance(function, type) else function
    return Subject(call, (x, anchors), "map", (len(x), number))


@subject("Rescaled", "Plain")
def wrapped(d, name):
    x, anchors, _, number = anchored(d)
    kind = d.pick("euclidean", "l1", "linf")
    rule = find(name)(kind if name == "Rescaled" else (lambda x, a: x @ a.mT))
    own = name == "Plain"  # the function is the user's
    return Subject(rule, (x, anchors), "map", (len(x), number), nan=not own, parameters=own)


@subject("GraphGeodesic")
def graph_geodesic(d, name):
    x, anchors, features, number = anchored(d)
    reference = d.rows(d.number_of_rows(20), features, x.dtype, first=False)
    k = d.size(1, 12)
    call = lambda x, anchors, reference: find(name)(reference, k=k)(x, anchors)  # noqa: E731
    return Subject(call, (x, anchors, reference), "map", (len(x), number), exact=False)


@subject("RelativeGeodesic")
def relative_geodesic(d, name):
    x, anchors, features, number = anchored(d)
    weights = d.plain(features, 4, torch.float64)
    metric, steps = d.pick("euclidean", "spherical", "fisher"), d.size(1, 4)

    def call(x, anchors):
        decoder = nn.Sequential(nn.Linear(features, 4, device="cpu"), nn.Tanh()).to(x.dtype)
        with torch.no_grad():
            decoder[0].weight.copy_(weights.mT)
            decoder[0].bias.zero_()
        return find(name)(decoder, steps, metric)(x, anchors)

    return Subject(
        call, (x, anchors), "map", (len(x), number), parameters=True, builds=True, roundings=1e4
    )


@subject("center", "standard_scale", "inverse_standard_scale", "whiten", "unit_norm")
def normalizer_functions(d, name):
    x, _, features, _ = anchored(d)
    mean, std = d.plain(1, features, x.dtype)[0], d.plain(1, features, x.dtype)[0].abs() + 1
    given = {
        "center": (mean,),
        "whiten": (mean, d.plain(features, features, x.dtype)),
        "unit_norm": (),
    }.get(name, (mean, std))
    return Subject(find(name), (x, *given), "map", tuple(x.shape))


def _normalizer(d, name, features):
    """What makes a normaliser: the same one at every call."""
    if name == "UnitNorm":
        return lambda: find(name)()
    if name == "NormalizerChain":
        parts = [_normalizer(d, d.pick("Center", "Whiten", "UnitNorm"), features) for _ in range(2)]
        return lambda: find(name)(*(part() for part in parts))
    if name == "Whiten":
        shrinkage = d.pick(0.0, 0.0, 0.3)
        return lambda: find(name)(features, shrinkage=shrinkage)
    return lambda: find(name)(features)


NORMALIZERS = ("Center", "IsotropicScale", "StandardScale", "UnitNorm", "Whiten", "NormalizerChain")


@subject(*NORMALIZERS)
def normalizers(d, name):
    dtype, features = d.dtype(), d.size(1, 9)
    reference = d.rows(d.number_of_rows(), features, dtype)
    x = d.rows(d.number_of_rows(4), features, dtype, first=False)
    build = _normalizer(d, name, features)
    streamed = d.random.random() < 0.3

    def fit(module, reference, x):
        if streamed and not isinstance(module, find("NormalizerChain")):
            for part in reference.split(7):
                module.partial_fit(part)
            return module
        return module.fit(reference)

    return of_module(
        lambda dtype: build().to(dtype),
        fit,
        lambda module, reference, x: module(x),
        (reference, x),
        kind="fit",
        shape=tuple(x.shape),
        unordered=() if streamed else (0,),
        steps=streamed,
        roundings=1e3,
        nan=name != "UnitNorm",  # nothing is fitted
    )


def _projection(d, name, features, number):
    """What makes a projection, and how wide its code is."""
    rule = d.pick(*NAMED)
    if name == "RelativeProjection":
        pre = d.pick(None, None, *NORMALIZERS[:5])
        build = pre and _normalizer(d, pre, features)
        make = lambda: find(name)(features, number, rule, pre=build and build())  # noqa: E731
        return make, number
    if name == "SubspaceProjection":
        heads = d.size(1, 4)
        kind = d.pick("concat", "sum", "mean", "max")
        width = number * heads if kind == "concat" else number
        return lambda: find(name)(features, number, heads, rule, kind), width
    if name == "ProductProjection":
        rules, kind = [d.pick(*NAMED) for _ in range(2)], d.pick("concat", "sum")
        one = find("RelativeProjection")
        width = 2 * number if kind == "concat" else number
        return lambda: find(name)([one(features, number, rule) for rule in rules], kind), width
    if name == "SparseRelativeProjection":
        k, exponent = d.size(1, 6), d.pick(1.0, 3.0, 8.0)
        return lambda: find(name)(features, number, k, exponent=exponent, chunk_size=5), number
    if name == "RunningRelativeProjection":
        return lambda: find(name)(features, number).eval(), number
    return lambda: find(name)(features, number), number


@subject(
    *("RelativeProjection", "SubspaceProjection", "ProductProjection"),
    *("SparseRelativeProjection", "RunningRelativeProjection", "ParsevalFrame"),
)
def projections(d, name):
    x, anchors, features, number = anchored(d)
    build, width = _projection(d, name, features, number)
    return of_module(
        lambda dtype: build().to(dtype),
        lambda module, anchors, x: module.set_anchors(anchors),
        lambda module, anchors, x: module(x),
        (anchors, x),
        kind="fit",
        shape=(len(x), width),
        exact=name != "SparseRelativeProjection",  # which are kept is decided by rounding
        roundings=1e3,
    )


@subject("RelativeEncoder")
def encoders(d, name):
    x, inputs, features, number = anchored(d)
    weights = d.plain(3, features, torch.float64)

    def make(dtype):
        encoder = nn.Linear(features, 3, bias=False, device="cpu").to(dtype)
        with torch.no_grad():
            encoder.weight.copy_(weights)
        projection = find("RelativeProjection")(3, number).to(dtype)
        return find(name)(encoder, projection, inputs.to(dtype)).eval()

    return of_module(
        make,
        lambda module, inputs, x: module.refresh(),
        lambda module, inputs, x: module(x),
        (inputs, x),
        kind="fit",
        shape=(len(x), number),
        parameters=True,
    )


@subject("AnchorAttention", "Quantize", "StratifiedMean")
def codes(d, name):
    x, _, features, _ = anchored(d)
    values, labels = d.plain(features, 3, x.dtype), d.integers(3, features)
    step, mode, groups = d.pick(0.1, 0.5, 3.0), d.pick("round", "smooth"), d.size(1, 2)

    def call(x):
        if name == "AnchorAttention":
            return find(name).from_values(values.to(x.dtype))(x)
        if name == "Quantize":
            return find(name)(step, mode)(x)
        return find(name)(labels, groups, 3)(x)

    shape = {"AnchorAttention": (len(x), 3), "Quantize": tuple(x.shape)}.get(name)
    return Subject(call, (x,), "map", shape, exact=name != "Quantize", builds=True)


@subject("sparse_scores")
def scores_of_sparse_codes(d, name):
    dtype, number = d.dtype(), d.size(2, 9)
    x, y = (d.rows(d.size(1, 6), number, dtype, i == 0) for i in range(2))

    def call(x, y):
        sparse = (
            z.where(z.abs() > z.abs().mean(1, keepdim=True), 0).to_sparse_csr() for z in (x, y)
        )
        return find(name)(*sparse)

    return Subject(call, (x, y), "map", (len(x), len(y)), exact=False, nan=False)


@subject("StitchedModel")
def stitched(d, name):
    dtype, features = d.dtype(), d.size(1, 6)
    x = d.rows(d.number_of_rows(6), features, dtype)
    first, last = d.plain(3, features, torch.float64), d.plain(2, 3, torch.float64)

    def call(x):
        parts = [nn.Linear(features, 3, device="cpu"), nn.Linear(3, 2, device="cpu")]
        for part, weight in zip(parts, (first, last), strict=True):
            part.weight.data, part.bias.data = weight.to(x.dtype), weight.new_zeros(len(weight))
            part.to(x.dtype)
        return find(name)(*parts)(x)

    return Subject(call, (x,), "map", (len(x), 2), parameters=True, builds=True)


@subject("ConvexAnchors")
def convex_anchors(d, name):
    dtype, features, number = d.dtype(), d.size(1, 6), d.size(1, 6)
    n = d.size(1, 12)
    x = d.rows(n, features, dtype)
    logits = d.plain(number, n, torch.float64)

    def call(x):
        made = find(name)(n, number).to(x.dtype)
        made.logits.data = logits.reshape(made.logits.shape).to(x.dtype)
        return made(x)

    return Subject(call, (x,), "set", (number, features), parameters=True, builds=True)


@subject("EMAAnchors")
def moving_anchors(d, name):
    dtype, features, number, decay = d.dtype(), d.size(1, 6), d.size(1, 6), d.pick(0.0, 0.5, 0.99)
    steps = tuple(d.rows(number, features, dtype, i == 0) for i in range(3))

    def fit(module, *steps):
        for step in steps:
            module.update(step)

    return of_module(
        lambda dtype: find(name)(features, number, decay).to(dtype),
        fit,
        lambda module, *steps: module.anchors.clone(),
        steps,
        shape=(number, features),
        steps=True,
        exact=decay < 0.9,
        nan=decay > 0,
    )
