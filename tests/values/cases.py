"""Calls of every public name, with fixed inputs, whose results `record.py` has written down.

A case returns results by name: tensors, numbers or text. `find` is the only place that knows where
a name lives, and what an option is called stands in one place for each name.
"""

import importlib
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

#: Where public names are looked for.
MODULES = (
    "relreps",
    "relreps.similarity",
    "relreps.normalization",
    "relreps.projection",
    "relreps.anchors",
    "relreps.correspondence",
    "relreps.translate",
    "relreps.topo_loss",
    "relreps.spectral_loss",
    "relreps.metrics",
    "relreps.moments",
    "relreps.sampling",
    "relreps.stitching",
    "relreps.parity",
    "relreps.testing",
    "relreps.plots",
    "relreps.integrations.torchmetrics",
)

#: Public names without a case of their own, and why.
NO_CASE = {
    "ABSORBED": "a word that a normaliser's residues use",
    "Affine": "what a normaliser gives a translator, nothing that a user calls",
    "AffineNormalizer": "abstract; its subclasses have cases",
    "Distance": "abstract; its subclasses have cases",
    "BROKEN": "a word that a normaliser's residues use",
    "MatrixTranslator": "abstract; its subclasses have cases",
    "Metric": "abstract; what is given by name has cases",
    "MetricLike": "a type alias",
    "MomentStream": "abstract; its subclasses have cases",
    "MomentTranslator": "abstract; its subclasses have cases",
    "Normalizer": "abstract; its subclasses have cases",
    "Problem": "what a subclass of MatrixTranslator is given, nothing that a user calls",
    "Projection": "abstract; its subclasses have cases",
    "Solution": "what a subclass of MatrixTranslator gives, nothing that a user calls",
    "Seeds": "a type alias",
    "SimilarityLike": "a type alias",
    "Translator": "abstract; its subclasses have cases",
    "residues": "what a subclass of Normalizer says of itself; see `Normalizer.invariant_to`",
}

F32, F64 = torch.float32, torch.float64
BOTH = (F32, F64)


@dataclass(frozen=True)
class Case:
    """A call whose results are recorded.

    Attributes:
        names: Public names it is a case of; one that several modules give is ``home.name``.
        function: Gives results by name.
        tight: Whether everything is computed in float64.
        slack: How many times the usual tolerance its results may differ by.
    """

    names: tuple[str, ...]
    function: Callable[[], dict]
    tight: bool
    slack: float

    def run(self):
        """The results, from a fixed seed, without warnings."""
        torch.default_generator.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.function()


#: Every case, by name.
CASES: dict[str, Case] = {}


def case(*names, slack=1.0, **grid):
    """Register a function of options: one case for each choice of them."""

    def register(function):
        for values in itertools.product(*grid.values()):
            options = dict(zip(grid, values, strict=True))
            label = ",".join(f"{name}={_label(value)}" for name, value in options.items())
            name = function.__name__ + (f"[{label}]" if label else "")
            assert name not in CASES, name
            tight = options.get("dtype") == F64
            CASES[name] = Case(names, partial(function, **options), tight, slack)
        return function

    return register


def find(name):
    """The public object of this name, or of ``home.name`` if several modules have one."""
    home, _, name = name.rpartition(".")
    for module in MODULES:
        if home in ("", module.rpartition(".")[2]) and _has(module, name):
            return getattr(importlib.import_module(module), name)
    raise LookupError(f"no public module has {name!r}")


def _has(module, name):
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        return False
    return name in getattr(found, "__all__", dir(found))


def _label(value):
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return "".join(map(str, value)) if isinstance(value, tuple) else str(value)


# Inputs


def draws(seed):
    """A source of numbers that stays the same in every version of NumPy."""
    return np.random.RandomState(seed).standard_normal


def rows(n, d, dtype=F32, seed=1):
    """Rows off the origin, of unequal spread."""
    draw = draws(seed)
    return torch.from_numpy(draw((n, d)) * np.linspace(0.7, 1.6, d) + draw(d)).to(dtype)


def pairs(n, d, e, dtype=F32, seed=1):
    """Rows of two spaces that differ by a turn, a scale, a shift and some noise."""
    x, draw = rows(n, d, F64, seed), draws(seed + 100)
    turn = np.eye(max(d, e))
    for axis in (draw(max(d, e)), draw(max(d, e))):
        turn = turn - 2 * np.outer(turn @ axis, axis) / (axis @ axis)
    y = 1.5 * x @ torch.from_numpy(turn[:d, :e]) + 0.3 * torch.from_numpy(draw((n, e)))
    return x.to(dtype), (y + torch.from_numpy(draw(e))).to(dtype)


def clusters(n, d, classes, dtype=F32, seed=1):
    """Rows about a few centers, and which; classes take turns."""
    labels = torch.arange(n) % classes
    centers = 3 * rows(classes, d, F64, seed + 50)
    return (centers[labels] + 0.5 * rows(n, d, F64, seed)).to(dtype), labels


def source(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def filled(module, seed=3):
    """A module with fixed parameters."""
    draw = draws(seed)
    for _, parameter in sorted(module.named_parameters()):
        values = 0.5 * draw(tuple(parameter.shape))
        parameter.data = torch.as_tensor(values).to(parameter)
    return module


def network(*sizes, seed=3):
    """A small network."""
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    return filled(nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh()))), seed)


# Outputs


def with_gradients(function, *inputs, name="value"):
    """The result of a function of tensors, and the gradient of a weighted sum of it to each."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = function(*inputs)
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
    found = torch.autograd.grad((weights * value).sum(), inputs, materialize_grads=True)
    return {name: value, **{f"{name}, gradient {i}": g for i, g in enumerate(found)}}


def listed(names):
    """A set of names as text."""
    return ", ".join(sorted(names))


def fields(report):
    """The fields of a tuple with names, lists of texts joined."""
    return {
        name: "; ".join(value)
        if isinstance(value, tuple | list) and all(isinstance(part, str) for part in value)
        else value
        for name, value in report._asdict().items()
    }


def table(made, rows, columns):
    """The scores of a table, and its names, joined."""
    names = {name: "; ".join(getattr(made, name)) for name in (rows, columns)}
    return {"scores": made.scores, **names}


def under(name, results):
    """The results, with a name before theirs."""
    return {f"{name}, {key}": value for key, value in results.items()}


def attempt(call):
    """What a call gives, or the kind of its error as text."""
    try:
        return call()
    except (ValueError, RuntimeError) as error:
        return type(error).__name__


# Warnings


@case("NumericalWarning", "PerformanceWarning")
def warnings_of_the_package():
    x, y = pairs(8, 6, 6)
    few = find("ProcrustesTranslator")(6, 6)
    seeds = torch.arange(6), torch.arange(6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        few.fit(x[:4], y[:4])
        discovered(*pairs(40, 6, 6), seeds, 10, max_samples=30)
    kinds = {warning.category for warning in caught}
    return {
        name: int(find(name) in kinds and issubclass(find(name), UserWarning))
        for name in ("NumericalWarning", "PerformanceWarning")
    }


# Similarities

NAMES = ("cosine", "angular", "inner", "euclidean", "l1", "linf", "basis")


def similarity(kind):
    """A similarity object, by a short description of it."""
    name, *options = kind.split()
    if name == "Distance":
        return find({"1": "L1", "2": "Euclidean", "inf": "Linf"}[options[0]])()
    if name == "Basis":
        return find(name)(**{options[i]: float(options[i + 1]) for i in range(0, len(options), 2)})
    return find(name)(*options)


@case(*NAMES, "SIMILARITIES", name=NAMES, dtype=BOTH)
def similarity_functions(name, dtype):
    x, anchors = rows(7, 5, dtype), rows(9, 5, dtype, 2)
    by_name = find("SIMILARITIES")[name]
    return with_gradients(find(name), x, anchors) | {"by name": by_name(x, anchors)}


@case(
    *("Angular", "Basis", "Cosine", "Euclidean", "Inner", "L1", "Linf", "Parseval", "Rescaled"),
    kind=(
        *("Cosine", "Angular", "Inner", "Distance 1", "Distance 2", "Distance inf", "Basis"),
        *("Basis ridge 0.1", "Basis rcond 0.6", "Parseval", "Rescaled euclidean", "Rescaled l1"),
        "Rescaled linf",
    ),
    dtype=BOTH,
)
def similarity_objects(kind, dtype):
    rule = similarity(kind)
    x, anchors = rows(7, 5, dtype), rows(9, 5, dtype, 2)
    code = rule(x, anchors)
    return {
        **with_gradients(rule, x, anchors),
        "inverse": attempt(lambda: rule.invert(code, anchors)),
        "few anchors": rule(x, anchors[:3]),
        "invariances": listed(rule.invariances(5, 9)),
        "invariances, few anchors": listed(rule.invariances(5, 3)),
    }


@case("Plain", "Similarity")
def similarities_of_a_user():
    class Halved(find("Similarity")):
        def prepare(self, anchors):
            return (anchors / 2,)

        def compare(self, x, *prepared):
            return x @ prepared[0].mT

    def squared(x, anchors):
        return (x @ anchors.mT).square()

    x, anchors = rows(4, 3), rows(5, 3, seed=2)
    return {
        "Similarity": Halved()(x, anchors),
        "invariances": listed(Halved().invariances(3, 5)),
        "Plain": find("Plain")(squared)(x, anchors),
        "projection": find("relative_projection")(x, anchors, squared),
    }


@case("GraphGeodesic", k=(3, 6), dtype=BOTH)
def graph_geodesic(k, dtype):
    graph = find("GraphGeodesic")(rows(30, 3, dtype), k=k)
    x, anchors = rows(6, 3, dtype, 2), rows(4, 3, dtype, 3)
    projection = find("RelativeProjection")(3, 4, graph).to(dtype).set_anchors(anchors)
    return with_gradients(lambda x: graph(x, anchors), x) | {
        "projection": projection(x),
        "invariances": listed(graph.invariances(3, 4)),
    }


@case("RelativeGeodesic", metric=("euclidean", "spherical", "fisher"), dtype=BOTH)
def relative_geodesic(metric, dtype):
    decoder = network(3, 6, 4).to(dtype)
    x, anchors = rows(5, 3, dtype, 2), rows(4, 3, dtype, 3)
    whole = find("RelativeGeodesic")(decoder, steps=5, metric=metric)
    chunked = find("RelativeGeodesic")(decoder, steps=2, metric=metric, chunk_size=2)
    return with_gradients(whole, x, anchors) | {"chunked": chunked(x, anchors)}


# Normalization


def normalizer(name, width):
    """A normalizer by name; ``-`` joins a chain, and shrinkage follows a colon."""
    if "-" in name:
        return find("NormalizerChain")(*(normalizer(part, width) for part in name.split("-")))
    if name == "UnitNorm":
        return find(name)()
    name, _, shrinkage = name.partition(":")
    return find(name)(width, shrinkage=float(shrinkage)) if shrinkage else find(name)(width)


NORMALIZERS = (
    *("Center", "IsotropicScale", "StandardScale", "UnitNorm", "Whiten", "Whiten:0.3"),
    *("Center-UnitNorm", "StandardScale-UnitNorm", "UnitNorm-Whiten"),
)


@case(
    *("Center", "IsotropicScale", "NormalizerChain", "StandardScale", "UnitNorm", "Whiten"),
    name=NORMALIZERS,
    dtype=BOTH,
)
def normalizers(name, dtype):
    x, reference = rows(6, 4, dtype), rows(25, 4, dtype, 2)
    fitted = normalizer(name, 4).to(dtype).fit(reference)
    parts = normalizer(name, 4).to(dtype)

    def streamed():
        for chunk in reference.split(10):
            parts.partial_fit(chunk)
        return parts(x)

    return {
        "forward": fitted(x),
        "inverse": attempt(lambda: fitted.inverse(fitted(x))),
        "stream": attempt(streamed),
        "invariant to": listed(fitted.invariant_to),
        **with_gradients(
            lambda r, x: fitted.map(x, fitted.statistics_of(r)), reference, x, name="relative"
        ),
    }


@case("StandardScale", "Whiten", "RowMoments", dtype=BOTH)
def constant_features(dtype):
    reference = torch.cat((rows(25, 3, dtype), torch.full((25, 1), 7.0, dtype=dtype)), 1)
    x, results = rows(5, 4, dtype), {}
    for name in ("StandardScale", "Whiten"):
        fitted = normalizer(name, 4).to(dtype).fit(reference)
        results |= {name: fitted(x), f"{name}, inverse": fitted.inverse(fitted(x))}
    return results | {"deviations": deviations(reference)}


def deviations(x):
    """Deviation of each feature, by the moments of the rows."""
    return find("row_moments")(x).deviations()


@case("center", "inverse_standard_scale", "standard_scale", "unit_norm", "whiten", dtype=BOTH)
def maps_of_normalizers(dtype):
    x, mean, std = rows(5, 3, dtype), rows(1, 3, dtype, 2)[0], rows(1, 3, dtype, 3)[0].abs()
    results = {}
    for name, statistics in (
        ("center", (mean,)),
        ("standard_scale", (mean, std)),
        ("inverse_standard_scale", (mean, std)),
        ("whiten", (mean, rows(3, 3, dtype, 4))),
        ("unit_norm", ()),
    ):
        function = find(name)
        results |= with_gradients(lambda x, f=function, s=statistics: f(x, *s), x, name=name)
    return results


# Moments


def totals(moments):
    """Weight, means and centered products."""
    found = {"total": moments.total}
    found |= {f"mean {i}": mean for i, mean in enumerate(moments.means)}
    return found | {f"scatter {i}": scatter for i, scatter in enumerate(moments.scatters)}


def stream(*sizes, **options):
    """An empty stream of second moments."""
    return find("Moments")(*sizes, **options)


@case("Moments", dtype=BOTH, exact=(False, True))
def moments(dtype, exact):
    x, y = pairs(40, 3, 4, dtype)
    weights = torch.linspace(0.5, 2, 40, dtype=dtype)

    def of(*parts):
        made = stream(3, 4, exact=exact)
        for part in parts:
            made.update(x[part], y[part])
        return made

    first, last = slice(0, 15), slice(15, 40)
    whole = of(first, last)
    found = {
        "weighted": stream(3, 4, exact=exact).update(x, y, weights),
        "merged": of(first).merge(of(last)),
        "subtracted": of(first, last).subtract(of(first)),
        "decayed": of(first).decay(0.5).update(x[last], y[last]),
        "reset": of(first).reset().update(x[last], y[last]),
    }
    results = {"one space": stream(3, exact=exact).update(x).cov_xx}
    for name, made in found.items():
        results |= under(name, {"xy": made.cov_xy, "mean": made.mean_y, "count": made.count})
    whole = {"xx": whole.cov_xx, "xy": whole.cov_xy, "yy": whole.cov_yy, **totals(whole.state())}
    return results | whole


@case("FeatureMoments", dtype=BOTH)
def feature_moments(dtype):
    x, make = rows(30, 4, dtype) + 100, find("FeatureMoments")
    weights = torch.linspace(0.5, 2, 30, dtype=dtype)
    first, last = make(4).update(x[:10]), make(4).update(x[10:])
    found = {
        "once": make(4).update(x),
        "weighted": make(4).update(x, weights),
        "merged": make(4).merge(first).merge(last),
        "subtracted": make(4).update(x).subtract(first),
        "decayed": make(4).merge(first).decay(0.25).merge(last),
    }
    results = totals(found["once"].state())
    for name, made in found.items():
        results |= under(name, {"mean": made.mean, "variance": made.variance})
    return results


@case("RowMoments", "elementwise", "finite_moments", "outer", "row_moments", dtype=BOTH)
def moments_of_rows(dtype):
    x, y = pairs(30, 3, 4, dtype)
    take, outer, elementwise = find("row_moments"), find("outer"), find("elementwise")
    weights = torch.linspace(0.5, 2, 30, dtype=dtype)
    both = ((0, 0), (0, 1), (1, 1))
    mixed = take(x, y, pairs=both, product=(elementwise, outer, outer), weights=weights, exact=True)
    parts = (take(part, product=outer) for part in (x[:10], x[10:]))
    found = {
        "one": take(x),
        "mixed": mixed,
        "merged": merged(*parts),
        "finite": find("finite_moments")(take, x),
    }
    results = {"outer": outer(x, y), "elementwise": elementwise(x, x)}
    for name, made in found.items():
        results |= under(name, totals(made))
    return results | with_gradients(lambda x: take(x, product=outer).scatters[0], x)


def merged(a, b):
    """Moments of the rows of two together."""
    return a + b


# Projections


@case("relative_projection", similarity=NAMES, dtype=BOTH)
def relative_projection(similarity, dtype):
    x, anchors = rows(6, 4, dtype).view(2, 3, 4), rows(7, 4, dtype, 2)
    return {"code": find("relative_projection")(x, anchors, similarity)}


@case("RelativeProjection", slack=5.0, similarity=NAMES, pre=(None, *NORMALIZERS), dtype=BOTH)
def relative_projections(similarity, pre, dtype):
    x, anchors = rows(4, 4, dtype), rows(9, 4, dtype, 2)
    made = find("RelativeProjection")(
        4, 9, similarity, pre=None if pre is None else normalizer(pre, 4)
    )
    code = made.to(dtype).set_anchors(anchors)(x)
    return {
        "code": code,
        "inverse": attempt(lambda: made.inverse(code)),
        "invariant to": listed(made.invariant_to),
        "gradients": torch.cat(
            [g for name, g in with_gradients(made.project, x, anchors).items() if "grad" in name]
        ),
    }


@case("RelativeProjection", dtype=BOTH)
def options_of_projections(dtype):
    x, anchors = rows(4, 4, dtype), rows(5, 4, dtype, 2)
    make = find("RelativeProjection")
    few = make(4, 3, "basis").to(dtype).set_anchors(anchors[:3])
    post = make.from_anchors(anchors, post=filled(nn.Linear(5, 2)).to(dtype))
    moved = make.from_anchors(rows(5, 4, dtype, 3), "euclidean").set_anchors(anchors)
    rescaled = make.from_anchors(anchors, similarity("Rescaled l1"))
    return {
        "few anchors": few(x),
        "few anchors, invariant to": listed(few.invariant_to),
        "post": post(x),
        "width": post.out_features,
        "set again": moved(x),
        "rescaled": rescaled(x),
        "rescaled, invariant to": listed(rescaled.invariant_to),
        "anchors": moved.anchors,
    }


@case("SubspaceProjection", aggregation=("concat", "sum", "mean", "max"), dtype=BOTH)
def subspace_projection(aggregation, dtype):
    x, anchors = rows(5, 6, dtype), rows(4, 6, dtype, 2)
    made = find("SubspaceProjection")(6, 4, 3, aggregation=aggregation).to(dtype)
    inner = find("SubspaceProjection")(6, 4, 3, similarity="inner", aggregation=aggregation)
    return with_gradients(made.set_anchors(anchors).project, x, anchors) | {
        "code": made(x),
        "anchors": made.anchors,
        "width": made.out_features,
        "invariant to": listed(made.invariant_to),
        "inner": inner.to(dtype).set_anchors(anchors)(x),
        "inner, invariant to": listed(inner.invariant_to),
    }


@case("ProductProjection", aggregation=("concat", "sum", "mlp", "attention"), dtype=BOTH)
def product_projection(aggregation, dtype):
    x, anchors = rows(5, 3, dtype), rows(4, 3, dtype, 2)
    make = find("RelativeProjection")
    parts = [make(3, 4), make(3, 4, "euclidean"), make(3, 4, "l1", pre=normalizer("Center", 3))]
    options = {"out_features": 4} if aggregation in ("mlp", "attention") else {}
    made = find("ProductProjection")(parts, aggregation=aggregation, **options).eval()
    filled(made).to(dtype).set_anchors(anchors)
    return with_gradients(made.project, x, anchors) | {
        "code": made(x),
        "width": made.out_features,
        "invariant to": listed(made.invariant_to),
    }


@case("AnchorAttention", "Quantize", "StratifiedMean", dtype=BOTH)
def codes(dtype):
    code, values = rows(5, 6, dtype), rows(6, 3, dtype, 2)
    attention = find("AnchorAttention")
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    made = {
        "attention": attention.from_values(values, temperature=0.7),
        "learned": filled(attention(6, 4, temperature=0.5)).to(dtype),
        "fixed": attention(6, 4, trainable=False).to(dtype),
        "round": find("Quantize")(0.3, mode="round"),
        "smooth": find("Quantize")(0.3, mode="smooth"),
        "mean": find("StratifiedMean")(labels),
        "groups": find("StratifiedMean")(labels, groups=2, num_classes=4),
    }
    results = {"width": made["groups"].out_features}
    for name, module in made.items():
        results |= with_gradients(module, code, name=name)
    return results


@case("ParsevalFrame", anchors=(6, 3), dtype=BOTH)
def parseval_frame(anchors, dtype):
    x = rows(5, 4, dtype)
    frame = find("ParsevalFrame").from_anchors(rows(anchors, 4, dtype, 2))
    code = frame.encode(x)
    return {
        "code": code,
        "rows": frame.decode(code),
        "inverse": attempt(lambda: frame.inverse(code)),
        "invariant to": listed(frame.invariant_to),
    }


@case("SparseRelativeProjection", "sparse_scores", dtype=BOTH)
def sparse_projection(dtype):
    x, y = pairs(9, 5, 4, dtype)
    anchors = pairs(40, 5, 4, dtype, seed=2)
    make = find("SparseRelativeProjection")
    left = make(5, 40, k=4, exponent=3.0).to(dtype).set_anchors(anchors[0])
    right = make(4, 40, k=4, chunk_size=16).to(dtype).set_anchors(anchors[1])
    top = left.topk(x)
    return with_gradients(lambda x: left.topk(x).values, x, name="values") | {
        "indices": top.indices,
        "code": right(y),
        "scores": find("sparse_scores")(left(x), right(y)),
        "scores, in chunks": find("sparse_scores")(left(x), right(y), chunk_size=4),
        "invariant to": listed(left.invariant_to),
    }


@case("RelativeEncoder", anchors=("detached", "live", "averaged"))
def relative_encoder(anchors):
    inputs, x = rows(4, 5), rows(6, 5, seed=2)
    average = ema_anchors(4, 3, 0.75) if anchors == "averaged" else None
    encoder = filled(nn.Linear(5, 3))
    made = find("RelativeEncoder")(
        encoder,
        find("RelativeProjection")(3, 4, pre=normalizer("Center", 3)),
        inputs,
        refresh_every=2,
        detach_anchors=anchors != "live",
        ema=average,
    )
    results = {}
    for step in range(3):
        code = made(x)
        (gradient,) = torch.autograd.grad(code.square().sum(), encoder.weight)
        results |= {f"code {step}": code, f"gradient {step}": gradient}
        with torch.no_grad():
            encoder.weight -= 0.01 * gradient
    with torch.no_grad():
        results["eval"] = made.eval()(x)
    return results | {"recorded": made(x), "refreshed": made.refresh().projection.anchors}


@case("RunningRelativeProjection")
def running_projection():
    x, anchors = rows(8, 4), rows(5, 4, seed=2)
    made = find("RunningRelativeProjection")(4, 5, momentum=0.2, eps=1e-3).set_anchors(anchors)
    return {
        "first": made(x),
        "second": made(x + 1),
        "mean": made.norm.running_mean,
        "variance": made.norm.running_var,
        "eval": made.eval()(x),
        "project": made.project(x, anchors[:5] + 1),
        "invariant to": listed(made.invariant_to),
    }


# Anchors


def picked(name, num_anchors, x, labels=None, **options):
    """What a sampler picks."""
    return find(name)(num_anchors, generator=source(), **options)(x, labels)


def ema_anchors(num_anchors, in_features, decay):
    """Anchors that follow an encoder."""
    return find("EMAAnchors")(in_features, num_anchors, decay)


@case(
    *("ClusterAnchors", "FarthestAnchors", "KMeansAnchors", "LeverageAnchors"),
    *("StratifiedAnchors", "TopKAnchors", "UniformAnchors", "cluster_labels"),
    normalize=(True, False),
    dtype=BOTH,
)
def samplers(normalize, dtype):
    x, labels = clusters(60, 4, 5, dtype)
    scores, options = rows(60, 1, dtype, 2)[:, 0], {"normalize": normalize}
    made = {
        "random": picked("ClusterAnchors", 8, x, num_clusters=5, **options),
        "by score": picked("ClusterAnchors", 8, x, num_clusters=5, order=scores, **options),
        "centers": picked("KMeansAnchors", 5, x, **options),
        "exact centers": picked("KMeansAnchors", 5, x, tolerance=0, max_iterations=50, **options),
        "farthest": picked("FarthestAnchors", 8, x, **options),
        "leverage": picked("LeverageAnchors", 8, x, **options),
        "highest leverage": picked("LeverageAnchors", 8, x, sampled=False, **options),
        "stratified": picked("StratifiedAnchors", 8, x, labels),
        "uniform": picked("UniformAnchors", 8, x),
        "best": picked("TopKAnchors", 8, x, scores=scores),
        "pool": picked("TopKAnchors", 8, x, scores=scores, pool=20),
    }
    found = find("cluster_labels")(x, 5, generator=source(), **options)
    return made | {"labels": found}


@case("BestAlignedAnchors", "ClusterAnchors", normalize=(True, False), dtype=BOTH)
def samplers_by_distance(normalize, dtype):
    x, y = pairs(40, 4, 5, dtype)
    near = picked("ClusterAnchors", 6, x, num_clusters=3, order="center", normalize=normalize)
    return {
        "aligned": find("BestAlignedAnchors")(8, y, normalize=normalize)(x),
        "near the center": near,
    }


@case("Sampler")
def sampler_of_a_user():
    class Longest(find("Sampler")):
        def pick(self, x, labels):
            return x.norm(dim=1).argsort(descending=True)[: self.num_anchors]

    return {"longest": Longest(3)(rows(8, 3))}


@case("leverage_scores", "pivoted_anchors", "prune_anchors", dtype=BOTH)
def subsets(dtype):
    x = torch.cat((rows(10, 4, dtype), 2 * rows(3, 4, dtype) + 0.05))
    wide = rows(6, 9, dtype)
    return {
        "scores": find("leverage_scores")(x),
        "scores of directions": find("leverage_scores")(x, normalize=True),
        "pruned": find("prune_anchors")(x, 0.05),
        "pruned more": find("prune_anchors")(x, 0.5),
        "pivoted": find("pivoted_anchors")(x),
        "pivoted, two": find("pivoted_anchors")(x, 2),
        "pivoted, wide": find("pivoted_anchors")(wide),
    }


@case("AnchorReport", "anchor_report", normalize=(True, False), dtype=BOTH)
def anchor_reports(normalize, dtype):
    anchors, x = rows(6, 4, dtype), rows(30, 4, dtype, 2)
    report = find("anchor_report")
    low = torch.cat((anchors[:2], anchors[:1]))
    found = {"all": (anchors, x), "low rank": (low, x), "without samples": (anchors,)}
    results = {}
    for name, rows_ in found.items():
        made = report(*rows_, normalize=normalize)
        results |= under(name, fields(made) | {"text": str(made)})
    return results


@case("prototypes", dtype=BOTH)
def means_of_classes(dtype):
    x, labels = clusters(30, 4, 3, dtype)
    made = partial(find("prototypes"), labels=labels)
    return with_gradients(made, x) | {"classes": find("prototypes")(x, labels, num_classes=3)}


@case("ConvexAnchors", dtype=BOTH)
def convex_anchors(dtype):
    x, made = rows(8, 3, dtype), find("ConvexAnchors")(8, 3, temperature=0.4).to(dtype)
    drawn = made(x)
    started = made.start_at(torch.tensor([5, 0, 2]))(x)
    found = with_gradients(filled(made), x)
    (gradient,) = torch.autograd.grad(made(x).square().sum(), made.logits)
    return found | {
        "drawn": drawn,
        "started": started,
        "weights": made.weights,
        "gradient of the logits": gradient,
    }


@case("EMAAnchors", dtype=BOTH)
def moving_anchors(dtype):
    warm = ema_anchors(3, 2, lambda updates: 1 - 1 / (updates + 1)).to(dtype)
    steady = ema_anchors(3, 2, 0.9).to(dtype)
    for step in range(4):
        for made in (warm, steady):
            made.update(rows(3, 2, dtype, step))
    return {"warm": warm.anchors, "steady": steady.anchors, "updates": steady.updates}


@case("coverage_loss", "diversity_loss", normalize=(True, False), dtype=BOTH)
def losses_of_anchors(normalize, dtype):
    x, anchors = rows(12, 4, dtype), rows(4, 4, dtype, 2)
    results = with_gradients(find("diversity_loss"), anchors, name="diversity")
    for temperature in (0.0, 0.3):
        loss = partial(find("coverage_loss"), normalize=normalize, temperature=temperature)
        results |= with_gradients(loss, x, anchors, name=f"coverage {temperature}")
    return results


# Correspondence


def shuffled(n, d, e, dtype=F32, noise=0.05):
    """Two spaces, the second in an order of its own, which, and six known pairs."""
    x = clusters(n, d, 6, F64)[0]
    turned = (x.flip(1) * 2 + 1 + noise * rows(n, d, F64, 9))[:, :e]
    order = torch.from_numpy(np.random.RandomState(4).permutation(n))
    seeds = order[:6], torch.arange(6)
    return x.to(dtype), turned[order].to(dtype), seeds


def discovered(x, y, seeds, num_anchors, **options):
    """Pairs from a few known ones."""
    return find("discover_parallel_anchors")(
        x, y, seeds, num_anchors, generator=source(), **options
    )


@case("Pairs", "discover_parallel_anchors", slack=10.0, dtype=(F32,))
def discovery(dtype):
    x, y, seeds = shuffled(48, 5, 5, dtype)
    return {
        **under("all", fields(discovered(x, y, seeds, 30, epsilon=0.05))),
        **under("drawn", fields(discovered(x, y, seeds, 15, max_samples=40))),
    }


@case("discover_parallel_anchors_unsupervised", slack=10.0, dtype=(F32,))
def unsupervised_discovery(dtype):
    x, y, _ = shuffled(48, 5, 5, dtype)
    pairs, agreement = discovered_alone(x, y, 20, num_clusters=6)
    return {**fields(pairs), "agreement": agreement}


def discovered_alone(x, y, num_anchors, **options):
    """Pairs from none."""
    return find("discover_parallel_anchors_unsupervised")(
        x, y, num_anchors, num_starts=3, generator=source(), **options
    )


@case("csls", "rcsls_loss", dtype=BOTH)
def scores_of_neighbors(dtype):
    x, y = pairs(12, 4, 4, dtype)
    scores = with_gradients(partial(find("csls"), k=3), x, y[:9], name="csls")
    return scores | with_gradients(partial(find("rcsls_loss"), k=4), x, y, name="loss")


@case("mutual_nearest", dtype=BOTH)
def mutual_pairs(dtype):
    x, y = pairs(30, 4, 4, dtype)
    found = find("mutual_nearest")(x, y @ (y.mT @ x), k=5)
    return dict(zip(("x", "y", "scores"), found, strict=True))


@case("functional_map", dtype=BOTH)
def functional_map(dtype):
    x, y = pairs(4, 20, 20, dtype)
    values = torch.linspace(0, 0.8, 4, dtype=dtype)
    solve = partial(find("functional_map"), values_x=values, values_y=1.1 * values)
    return with_gradients(lambda x, y: solve(x, y, alpha=2.0), x, y) | {
        "no weight": solve(x, y, alpha=0.0)
    }


# Translators

PRES = ("center", "standard", "unit", None)
SCALES = ("none", "umeyama", "norm")
WIDTHS = ((5, 5), (5, 4), (4, 5))


def translated(make, x, y, test, streams=True):
    """What a translator makes of rows after each way to fit it."""
    weights, made = torch.linspace(0.5, 2, len(x), dtype=x.dtype), make()
    results = {"weighted": made.fit(x, y, weights)(test), "forward": made.fit(x, y)(test)}
    results |= {"rank": rank(made), "inverse": attempt(lambda: made.inverse(made(test)))}
    results |= {
        name: getattr(made, name) for name in ("penalty", "correlations") if hasattr(made, name)
    }
    if streams:
        fresh = make().partial_fit(x[:10], y[:10]).partial_fit(x[10:], y[10:], weights[10:])
        results["stream"] = fresh.solve()(test)
        if made.pre != "unit":
            seen = stream(x.shape[1], y.shape[1], exact=True).update(x, y, weights)
            results["moments"] = fresh.solve(seen)(test)
    return results


def rank(made):
    """Number of directions of a fitted map."""
    return int(made.rank)


def translator(name, dtype, *sizes, **options):
    """What makes a translator."""
    return lambda: find(name)(*sizes, **options).to(dtype)


@case("ProcrustesTranslator", scale=SCALES, pre=PRES, widths=WIDTHS, dtype=BOTH)
def procrustes_translator(scale, pre, widths, dtype):
    make = translator("ProcrustesTranslator", dtype, *widths, scale=scale, pre=pre)
    x, y = pairs(30, *widths, dtype)
    return translated(make, x, y, rows(4, widths[0], dtype, 2))


@case("LOrthoTranslator", scale=SCALES, pre=PRES, dtype=BOTH)
def l_ortho_translator(scale, pre, dtype):
    make = translator("LOrthoTranslator", dtype, 5, 4, scale=scale, pre=pre)
    return translated(make, *pairs(30, 5, 4, dtype), rows(4, 5, dtype, 2))


@case("LOrthoTranslator", "ProcrustesTranslator", reflection=(False, True), dtype=BOTH)
def reflections(reflection, dtype):
    x, y = pairs(30, 4, 4, dtype)
    y, results = y * torch.tensor([1, 1, 1, -1]), {}
    for name in ("LOrthoTranslator", "ProcrustesTranslator"):
        make = translator(name, dtype, 4, 4, allow_reflection=reflection, scale="umeyama")
        results[name] = make().fit(x, y)(x[:4])
    few = find("ProcrustesTranslator")(4, 4, allow_reflection=reflection).to(dtype)
    return results | {"few pairs": few.fit(x[:3], y[:3])(x[:4]), "rank": rank(few)}


@case("procrustes", "linear_map", widths=WIDTHS, dtype=BOTH)
def maps(widths, dtype):
    x, y = pairs(12, *widths, dtype)
    results = with_gradients(find("procrustes"), x, y, name="procrustes")
    for ridge in (0.0, 0.3):
        solve = partial(find("linear_map"), ridge=ridge)
        results |= with_gradients(solve, x, y, name=f"linear {ridge}")
    return results


RIDGES = (0.0, 0.1, "gcv", "loo")


def ridge_translator(name, dtype, widths, **options):
    """What a translator with a penalty makes of rows."""
    make = translator(name, dtype, *widths, **options)
    x, y = pairs(30, *widths, dtype)
    return translated(make, x, y, rows(4, widths[0], dtype, 2), options["ridge"] != "loo")


@case("LinearTranslator", ridge=RIDGES, pre=(None, "unit"), dtype=BOTH)
def linear_translator(ridge, pre, dtype):
    return ridge_translator("LinearTranslator", dtype, (5, 4), ridge=ridge, pre=pre)


@case("AffineTranslator", ridge=RIDGES, pre=("center", "standard"), dtype=BOTH)
def affine_translator(ridge, pre, dtype):
    return ridge_translator("AffineTranslator", dtype, (4, 5), ridge=ridge, pre=pre)


@case("ProcrustesRidgeTranslator", ridge=RIDGES, pre=("center", "standard"), dtype=BOTH)
def procrustes_ridge_translator(ridge, pre, dtype):
    return ridge_translator("ProcrustesRidgeTranslator", dtype, (5, 5), ridge=ridge, pre=pre)


@case("ReducedRankTranslator", ridge=RIDGES, pre=("center", "standard"), dtype=BOTH)
def reduced_rank_translator(ridge, pre, dtype):
    options = {"max_rank": 2, "ridge": ridge, "pre": pre}
    return ridge_translator("ReducedRankTranslator", dtype, (5, 4), **options)


@case("AffineTranslator", "ProcrustesRidgeTranslator", slack=10.0, dtype=BOTH)
def least_squares_of_few_pairs(dtype):
    (x, y), test, results = pairs(5, 6, 6, dtype), rows(4, 6, dtype, 2), {}
    for ridge in RIDGES:
        for name in ("AffineTranslator", "ProcrustesRidgeTranslator"):
            made = translator(name, dtype, 6, 6, ridge=ridge)().fit(x, y)
            results |= {f"{name}, {ridge}": made(test), f"{name}, {ridge}, rank": rank(made)}
    return results


@case("WhitenedTranslator", reweight=(0.0, 0.5, 1.0), ridge=(0.0, 0.01), dtype=BOTH)
def whitened_translator(reweight, ridge, dtype):
    options = {"reweight": reweight, "ridge": ridge}
    results = ridge_translator("WhitenedTranslator", dtype, (5, 4), **options)
    x, y = pairs(30, 4, 5, dtype)
    other = translator("WhitenedTranslator", dtype, 4, 5, max_rank=2, pre="standard", **options)
    return results | under("rank 2", translated(other, x, y, x[:4]))


@case("CCATranslator", rank=(None, 2), ridge=(0.0, 0.01), pre=("center", "standard"), dtype=BOTH)
def cca_translator(rank, ridge, pre, dtype):
    options = {"max_rank": rank, "ridge": ridge, "pre": pre}
    return ridge_translator("CCATranslator", dtype, (4, 5), **options)


@case("PermutationTranslator", signed=(False, True), pre=PRES, widths=WIDTHS, dtype=(F64,))
def permutation_translator(signed, pre, widths, dtype):
    x, results = rows(30, widths[0], dtype), {}
    moved = torch.cat((x, rows(30, 1, dtype, 3)), 1)[:, torch.tensor([3, 1, 4, 0, 2])]
    y = 2 * moved[:, : widths[1]] * torch.tensor([1, -1, 1, -1, 1])[: widths[1]] + 0.5
    make = translator("PermutationTranslator", dtype, *widths, signed=signed, pre=pre)
    results = translated(make, x, y, rows(4, widths[0], dtype, 2))
    return results | {"matrix": make().fit(x, y).matrix.sign()}  # of units, with "standard"


@case("RCSLSTranslator", pre=PRES, dtype=BOTH)
def rcsls_translator(pre, dtype):
    x, y = pairs(40, 4, 4, dtype)
    made = rcsls(4, 4, k=5, pre=pre).to(dtype).fit(x, y)
    return {"forward": made(x[:4]), "inverse": made.inverse(y[:4]), "loss": made.loss}


def rcsls(*sizes, **options):
    """A map trained by a few steps."""
    return find("RCSLSTranslator")(*sizes, max_iterations=6, lr=0.5, **options)


@case("SGDAffineTranslator", pre=("center", "standard"), dtype=BOTH)
def sgd_translator(pre, dtype):
    (x, y), test = pairs(30, 4, 3, dtype), rows(4, 4, dtype, 2)
    weights = torch.linspace(0.5, 2, 30, dtype=dtype)
    return {
        "forward": sgd(4, 3, pre=pre).to(dtype).fit(x, y, generator=source())(test),
        "weighted": sgd(4, 3, pre=pre).to(dtype).fit(x, y, weights, generator=source())(test),
    }


def sgd(*sizes, **options):
    """A map by a few steps of Adam, from a fixed start."""
    made = find("SGDAffineTranslator")
    return made(*sizes, max_iterations=20, lr=0.01, **options)


def of_pairs_found(made, x, y):
    """What a translator that looks for its pairs has found."""
    names = ("num_pairs", "agreement", "objective", "similarity")
    found = {name: getattr(made, name) for name in names if hasattr(made, name)}
    return {"forward": made(x[:4]), "inverse": made.inverse(y[:4]), **found}


@case("RefinedProcrustesTranslator", scale=SCALES, pre=PRES, dtype=(F64,))
def refined_translator(scale, pre, dtype):
    x, y, seeds = shuffled(48, 5, 5, dtype)
    made = refined(5, 5, scale=scale, pre=pre).to(dtype).fit(x, y, seeds)
    return of_pairs_found(made, x, y)


def refined(*sizes, **options):
    """A map refined a few times."""
    return find("RefinedProcrustesTranslator")(*sizes, k=5, max_iterations=6, **options)


@case("TransportTranslator", scale=("none", "norm"), dtype=BOTH)
def transport_translator(scale, dtype):
    x, y, seeds = shuffled(48, 5, 4, dtype)
    made = translator("TransportTranslator", dtype, 5, 4, scale=scale)().fit(x, y, seeds)
    return of_pairs_found(made, x, y)


@case("TransportTranslator", dtype=(F64,))
def transport_without_seeds(dtype):
    x, y, _ = shuffled(48, 5, 5, dtype)
    make = translator("TransportTranslator", dtype, 5, 5, epsilon=0.03, num_clusters=6)
    return of_pairs_found(make().fit(x, y, generator=source()), x, y)


@case("FunctionalMapTranslator", scale=("none", "umeyama"), dtype=BOTH)
def functional_map_translator(scale, dtype):
    x = rows(100, 3, dtype, 2)
    y = (2 * x.flip(1) + 1 + 0.001 * rows(100, 3, dtype, 9)).flip(0)
    known = torch.arange(0, 100, 4)
    options = {"num_functions": 20, "k": 30, "alpha": 5.0, "scale": scale}
    made = translator("FunctionalMapTranslator", dtype, 3, 3, **options)()
    return of_pairs_found(made.fit(x, y, (known, 99 - known)), x, y)


@case("GeneralizedProcrustes", rescale=(True, False), whole=(True, False), dtype=BOTH)
def generalized_procrustes(rescale, whole, dtype):
    (x, y), z = pairs(30, 4, 5, dtype), pairs(30, 4, 4, dtype)[0].flip(1) * 3
    spaces = [x, y, z + 0.3 * rows(30, 4, dtype, 8)]
    weights = None
    if not whole:
        weights = torch.ones(3, 30, dtype=dtype)
        weights[1, :6], weights[2, 20:] = 0, 0.5
        weights[0, -4:] = 0
    made = generalized([4, 5, 4], 4, rescale=rescale).to(dtype).fit(spaces, weights)
    hub = made.to_hub(x[:4], 0)
    return {
        "hub": hub,
        "from hub": made.from_hub(hub, 1),
        "translate": made.translate(y[:4], 1, 2),
        "objective": made.objective,
        "rounds": made.iterations,
    }


def generalized(*sizes, **options):
    """Maps of many spaces, to a coarse tolerance that rounding does not decide about."""
    return find("GeneralizedProcrustes")(*sizes, tolerance=1e-5, max_iterations=50, **options)


@case(
    "InverseRelativeTranslator",
    rescale=("none", "mean", "source"),
    ridge=(0.0, 0.05, "gcv"),
    dtype=BOTH,
)
def inverse_relative(rescale, ridge, dtype):
    x, y = pairs(12, 4, 5, dtype)
    make = translator("InverseRelativeTranslator", dtype, 4, 5, 12, rescale=rescale, ridge=ridge)
    made, other = make().fit(x, y), make().set_source(x)
    results = {"forward": made(x[:4] + 1), "code": made.encode(x[:4] + 1)}
    results["decoded"] = made.decode(other.encode(x[:4]))
    if ridge != "gcv":
        results["set"] = other.set_target(y)(x[:4])
    return results | conditions(made)


def conditions(made):
    """How well an inverse relative map is determined."""
    names = ("condition_number", "used_ridge", "num_kept")
    return {name: getattr(made, name) for name in names}


@case("InverseRelativeTranslator", prune_on=("target", "source"), subspaces=(1, 3), dtype=BOTH)
def pruned_inverse_relative(prune_on, subspaces, dtype):
    x, y = pairs(16, 4, 4, dtype)
    options = {"pruning": 0.2, "prune_on": prune_on, "subspaces": subspaces, "ridge": 0.01}
    make = translator("InverseRelativeTranslator", dtype, 4, 4, 16, **options)
    made = make().fit(x, y, generator=source())
    return {"forward": made(x[:4]), **conditions(made)}


@case("TranslationReport", "OwnRows", "translation_report", dtype=BOTH)
def translation_reports(dtype):
    x, y = pairs(60, 5, 4, dtype)
    report, results = find("translation_report"), {}

    def told(found):
        searched = {n: under(n, fields(getattr(found, n))) for n in ("moved", "queries")}
        plain = {n: v for n, v in fields(found).items() if n not in searched}
        return plain | searched["moved"] | searched["queries"]

    for name, made in {
        "procrustes": find("ProcrustesTranslator")(5, 4, scale="norm"),
        "affine": find("AffineTranslator")(5, 4, ridge=0.1),
        "low rank": find("ReducedRankTranslator")(5, 4, max_rank=1),
    }.items():
        found = report(made.to(dtype), x, y, held_out=0.3, generator=source())
        results |= under(name, told(found) | {"text": str(found)})
    stored = {"index": x, "targets": y, "metric": "euclidean"}
    made = find("ProcrustesTranslator")(5, 4, scale="norm").to(dtype)
    results |= under("index", told(report(made, x[:40], y[:40], generator=source(), **stored)))
    anchored = find("InverseRelativeTranslator")(5, 4, 40, ridge=0.1).to(dtype)
    found = report(anchored, x[:40], y[:40], test=(x[40:], y[40:]))
    return results | under("relative", told(found))


@case("ScaleInvarianceReport", "scale_invariance_report", dtype=BOTH)
def scale_reports(dtype):
    x, labels = clusters(40, 4, 3, dtype)
    head = network(4, 6, 3).to(dtype)
    report = find("scale_invariance_report")
    plain, labelled = report(head, x), report(head, x, alphas=(0.5, 2.0), labels=labels)
    return {
        **under("plain", fields(plain) | {"text": str(plain)}),
        **under("labels", fields(labelled) | {"text": str(labelled)}),
    }


# Topology

METRICS = (
    *("l1", "l2", "sqeuclidean", "linf", "cosine", "f0", "precomputed"),
    *(("lp", 3.0), ("lp", 0.5), ("fp", 0.5), ("fp", 2.5)),
)
METHODS = ("auto", "closure", "prim", "boruvka", "single_linkage")


def cloud(n, d, metric, dtype, seed=1):
    """Points, or their distances."""
    x = rows(n, d, dtype, seed)
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") if _square(metric) else x


def _square(metric):
    return metric == "precomputed"


@case("death_times", "edge_lengths", metric=METRICS, dtype=BOTH)
def deaths(metric, dtype):
    x, death_times = cloud(12, 3, metric, dtype), find("death_times")
    mask = torch.arange(12) != 4
    edges = torch.tensor([[0, 1], [2, 7], [11, 3]])
    return {
        **with_gradients(partial(death_times, metric=metric), x, name="deaths"),
        **with_gradients(
            lambda x: death_times(x, metric=metric, mask=mask)[..., :-1], x, name="masked"
        ),
        **with_gradients(lambda x: find("edge_lengths")(x, edges, metric=metric), x, name="edges"),
        "batch": death_times(torch.stack((x, 2 * x.flip(0, 1))), metric=metric),
    }


@case("death_times", "minimum_spanning_tree", method=METHODS, n=(7, 40))
def methods(method, n):
    x, distances = rows(n, 3), cloud(n, 3, "precomputed", F32)
    tie = torch.ones(4, 4) - torch.eye(4)
    found = {
        name: find("minimum_spanning_tree")(d, method=method)
        for name, d in (("tree", distances), ("of ties", tie))
    }
    return found | with_gradients(partial(find("death_times"), method=method), x)


@case(
    *("TopologicalDensificationLoss", "topological_densification_loss"),
    mode=("abs", "square", "hinge"),
    metric=("l1", "l2", "cosine", "precomputed", ("lp", 3.0)),
    dtype=BOTH,
)
def densification(mode, metric, dtype):
    z, labels = cloud(14, 3, metric, dtype), torch.arange(14) % 3
    scale = 0.2 if metric == "cosine" else 1.2
    loss = find("topological_densification_loss")
    results = {}
    for reduction in ("mean", "sum", "none"):
        options = {"mode": mode, "metric": metric, "reduction": reduction}
        made = find("TopologicalDensificationLoss")(scale, **options)
        classes = with_gradients(lambda z, m=made: m(z, labels), z, name=f"classes, {reduction}")
        both = loss(torch.stack((z, 2 * z)), scale, **options)
        results |= classes | {reduction: both}
    return results | with_gradients(lambda z: loss(z, scale, mode=mode, metric=metric), z)


@case("both_placements", dtype=BOTH)
def placements(dtype):
    losses = rows(1, 2, dtype)[0]
    call = find("both_placements")
    return with_gradients(lambda a: call(*a), losses) | {"even": call(*losses, weights=(0.5, 0.5))}


@case("RTDLiteLoss", "topo_loss.rtd_lite", metric=METRICS, dtype=BOTH)
def rtd(metric, dtype):
    x, y = cloud(11, 3, metric, dtype), cloud(11, 4, metric, dtype, 2)
    call = partial(find("topo_loss.rtd_lite"), metric=metric)
    made = find("RTDLiteLoss")(metric=metric, quantile=0.5)
    batch = torch.stack((x, 2 * x)), torch.stack((y, y.flip(0, 1)))
    return with_gradients(call, x, y) | {
        "batch": call(*batch),
        "module": made(*batch),
        "quantile": call(x, y, quantile=0.25),
    }


@case("wasserstein_h0", q=(1.0, 2.0, 3.5), diagonal=(True, False), dtype=BOTH)
def wasserstein(q, diagonal, dtype):
    a, b = rows(3, 6, dtype).abs(), rows(3, 6 - 2 * diagonal, dtype, 2).abs()
    return with_gradients(partial(find("wasserstein_h0"), q=q, diagonal=diagonal), a, b)


@case("ConnectivityLoss", metric=("l1", "l2", ("lp", 3.0)), branches=(1, 2), dtype=BOTH)
def connectivity(metric, branches, dtype):
    z = rows(20, 4, dtype).view(2, 10, 4)
    return with_gradients(find("ConnectivityLoss")(scale=1.5, metric=metric, branches=branches), z)


@case("death_time_quantiles", "persistent_entropy", "total_persistence", dtype=BOTH)
def persistence(dtype):
    x, labels = clusters(30, 3, 2, dtype)
    lengths = find("death_times")(x.view(3, 10, 3))
    spread = find("death_time_quantiles")
    parts = {"samples_per_class": 5, "generator": source()}
    return {
        **with_gradients(find("persistent_entropy"), lengths, name="entropy"),
        **with_gradients(find("total_persistence"), lengths, name="total"),
        **with_gradients(partial(find("total_persistence"), p=2.5), lengths, name="power"),
        "quantiles": spread(x),
        "by class": spread(x, labels, quantiles=(0.1, 0.5), metric="l1"),
        "in parts": spread(x, labels, **parts),
    }


@case(
    *("SignatureLoss", "signature_loss"),
    slack=5.0,
    metric=METRICS,
    squared=(True, False),
    dtype=BOTH,
)
def signatures(metric, squared, dtype):
    x, z = cloud(11, 4, metric, dtype), cloud(11, 3, metric, dtype, 2)
    loss, results = partial(find("signature_loss"), metric=metric, squared=squared), {}
    for normalize in ("max", "none"):
        results |= with_gradients(partial(loss, normalize=normalize), x, z, name=normalize)
        made = find("SignatureLoss")(metric=metric, normalize=normalize, squared=squared)
        batch = torch.stack((x, 2 * x)), torch.stack((z, z.flip(0, 1)))
        results[f"module, {normalize}"] = made(*batch)
    learned = find("SignatureLoss")(metric=metric, normalize="learned", squared=squared).to(dtype)
    value = learned(x, z)
    (gradient,) = torch.autograd.grad(value, learned.scale)
    given = loss(x, z, normalize="learned", scale=1.7)
    return results | {"learned": value, "gradient of the scale": gradient, "scale": given}


@case("mass_concentration_bound", dtype=(F64,))
def mass_concentration(dtype):
    p = torch.tensor([0.0, 0.1, 0.3, 0.8], dtype=dtype)
    bound = find("mass_concentration_bound")
    return {str(numbers): bound(p, *numbers) for numbers in ((16, 5, 0.9), (8, 1, 0.5))}


@case("SpectralGapLoss", "spectral_gap", slack=5.0, graph=("knn", "heat"), dtype=BOTH)
def spectral_gaps(graph, dtype):
    z, labels = rows(18, 3, dtype), torch.arange(18) % 3  # in clusters, eigenvalues would coincide
    gap, results = partial(find("spectral_gap"), k=4, graph=graph), {}
    for name, options in {
        "median": {},
        "number": {"temperature": 3.0},
        "paper": {"paper_offset": True},
        "dense": {"solver": "dense"},
    }.items():
        call = partial(gap, components=3, **options)
        results |= with_gradients(call, z, name=name)
    made = find("SpectralGapLoss")(k=4, graph=graph)
    results |= with_gradients(lambda z: made(z, labels), z, name="labels")
    fixed = find("SpectralGapLoss")(k=4, components=2, graph=graph)
    return results | {"batch": fixed(z.view(2, 9, 3))}


@case("spectral_gap")
def partial_spectrum():
    z = clusters(90, 3, 3)[0]
    return with_gradients(lambda z: find("spectral_gap")(z, 3, k=8, solver="partial"), z)


# Batches, stitching


@case("ClassBatchSampler", "cyclic_annealing")
def batches():
    labels = torch.tensor([0, 1, 2, 1, 0, 2, 1, 1, 0, 0, 2, 1, 1, 0, 2, 2, 2, 2, 0, 1])
    make, results = find("ClassBatchSampler"), {}
    for name, options in {
        "all": {"seed": 3},
        "two": {"classes_per_batch": 2},
        "replica": {"classes_per_batch": 1, "num_replicas": 2, "rank": 1},
    }.items():
        made = make(labels, 2, **options)
        epochs = [list(made), list(made)]
        made.set_epoch(5)
        epochs.append(list(made))
        results |= {f"{name}, {i}": torch.tensor(epoch) for i, epoch in enumerate(epochs)}
        results[f"{name}, length"] = len(made)
    anneal = find("cyclic_annealing")
    weights = [[anneal(t, 40), anneal(t, 40, cycles=3, ratio=0.5)] for t in range(0, 44, 3)]
    return results | {"weights": torch.tensor(weights)}


@case("StitchedModel", "StitchingMatrix", "stitching_matrix", dtype=BOTH)
def stitching(dtype):
    x = rows(6, 4, dtype)
    encoders = {"a": network(4, 3).to(dtype), "b": network(4, 5, seed=4).to(dtype)}
    decoders = {"a": filled(nn.Linear(3, 2)).to(dtype), "b": filled(nn.Linear(5, 2)).to(dtype)}
    bridge = filled(nn.Linear(3, 5)).to(dtype)
    call, score = find("stitching_matrix"), torch.mean
    plain = call(encoders, decoders, x, score)
    bridged = call(encoders, decoders, x, score, translators={("a", "b"): bridge})
    return {
        **under("plain", table(plain, "encoders", "decoders") | {"table": plain.to_markdown()}),
        **under(
            "bridged", table(bridged, "encoders", "decoders") | {"table": bridged.to_markdown()}
        ),
        **with_gradients(find("StitchedModel")(encoders["a"], decoders["b"], bridge), x),
    }


# Measures


def plain_measures(*calls, x, y, gradients=True):
    """Values of measures by name and options, with gradients where they have them."""
    results = {}
    for name, options in calls:
        label = ", ".join((name, *(f"{key}={value}" for key, value in options.items())))
        function = partial(find(name), **options)
        if gradients:
            results |= with_gradients(function, x, y, name=label)
        else:
            results[label] = function(x, y)
    return results


@case(
    *("distance_correlation", "kernel_cka", "linear_cka", "metrics.rtd_lite", "minibatch_cka"),
    *("procrustes_distance", "regression_r2", "rsa", "shape_distance"),
    slack=5.0,
    widths=((3, 4), (30, 25)),
    dtype=BOTH,
)
def differentiable_measures(widths, dtype):
    x, y = pairs(24, *widths, dtype)
    wide = widths[0] > 24
    return plain_measures(
        ("distance_correlation", {}),
        ("kernel_cka", {}),
        ("kernel_cka", {"bandwidth": 0.5, "debiased": True}),
        ("kernel_cka", {"kernel": "linear"}),
        ("linear_cka", {}),
        ("linear_cka", {"debiased": True}),
        ("metrics.rtd_lite", {}),
        ("metrics.rtd_lite", {"quantile": 0.5}),
        ("minibatch_cka", {"batch_size": 8}),
        ("minibatch_cka", {"batch_size": 12, "kernel": "rbf"}),
        ("procrustes_distance", {}),
        *([] if wide else [("regression_r2", {}), ("shape_distance", {"alpha": 0})]),
        ("rsa", {"compare": "pearson"}),
        ("rsa", {"compare": "cosine", "rdm": "cosine"}),
        ("rsa", {"compare": "pearson", "rdm": "correlation"}),
        ("shape_distance", {}),
        ("shape_distance", {"alpha": 0.5}),
        x=x,
        y=y,
    )


@case(
    "cknna", "mean_cca", "mutual_knn", "neighborhood_jaccard", "pwcca", "rsa", "svcca", dtype=BOTH
)
def measures_without_gradient(dtype):
    x, y = pairs(40, 4, 5, dtype)
    return plain_measures(
        ("cknna", {"k": 5}),
        ("cknna", {"k": 12, "chunk_size": 7}),
        ("mean_cca", {}),
        ("mean_cca", {"rcond": 0.5}),
        ("mutual_knn", {"k": 5}),
        ("mutual_knn", {"k": 5, "calibrated": True, "chunk_size": 7}),
        ("neighborhood_jaccard", {"k": 6}),
        ("pwcca", {}),
        ("pwcca", {"rcond": 0.5}),
        ("rsa", {}),
        ("rsa", {"rdm": "cosine"}),
        ("rsa", {"rdm": "correlation"}),
        ("svcca", {}),
        ("svcca", {"variance": 0.6}),
        x=x,
        y=y,
        gradients=False,
    )


@case(
    *("RetrievalResult", "jaccard_at_k", "mean_reciprocal_rank", "recall_at_k"),
    *("retrieval_ranks", "retrieval_scores"),
    dtype=BOTH,
)
def retrieval(dtype):
    x, y = pairs(40, 4, 4, dtype)
    y = 0.5 * x + 0.1 * y
    found = fields(find("retrieval_scores")(x, y, k=4))
    return found | plain_measures(
        ("jaccard_at_k", {"k": 5}),
        ("jaccard_at_k", {"k": 5, "chunk_size": 9}),
        ("mean_reciprocal_rank", {}),
        ("mean_reciprocal_rank", {"k": 3}),
        ("recall_at_k", {"k": 2}),
        ("retrieval_ranks", {}),
        ("retrieval_ranks", {"chunk_size": 9}),
        x=x,
        y=y,
        gradients=False,
    )


@case("latent_similarity", dtype=BOTH)
def proxies(dtype):
    x, y = pairs(20, 4, 5, dtype)
    anchors = torch.tensor([3, 0, 11, 7, 15])
    results = {}
    for centered in (False, True):
        call = partial(find("latent_similarity"), anchors=anchors, centered=centered)
        results |= with_gradients(call, x, y, name=f"centered={centered}")
    return results


@case("MEASURES", "Measure", "measures_markdown", dtype=BOTH)
def declared_measures(dtype):
    x, y = pairs(20, 4, 4, dtype)
    anchors, results = torch.tensor([3, 0, 11, 7, 15]), {"table": find("measures_markdown")()}
    for name, measure in find("MEASURES").items():
        given = (anchors,) if measure.arguments else ()
        sides = (listed(side) for side in (measure.x, measure.y, measure.alike))
        numbers = (measure.low, measure.high, measure.equal)
        answers = (measure.higher_is_better, measure.differentiable, measure.symmetric)
        results[name] = measure.function(x, y, *given)
        results[f"{name}, declared"] = "; ".join((*sides, *map(str, (*numbers, *answers))))
    return results


def streamed(make, x, y):
    """A streaming measure of three batches, and of two streams merged."""

    def fed(*parts):
        made = make()
        for part in parts:
            made.update(x[part], y[part])
        return made

    parts = slice(0, 9), slice(9, 20), slice(20, 32)
    merged = fed(parts[0]).merge(fed(*parts[1:]))
    return {
        "once": fed(slice(None)).compute(),
        "batches": fed(*parts).compute(),
        "merged": merged.compute(),
        "reset": fed(parts[0]).reset().update(x[9:], y[9:]).compute(),
    }


@case("metrics.CKA", "MinibatchCKA", "metrics.MutualKNN", "metrics.RetrievalScores", dtype=BOTH)
def streaming_measures(dtype):
    x, y = pairs(32, 4, 4, dtype)
    results = {}
    for name, make in {
        "CKA": lambda: find("metrics.CKA")(4, 4),
        "CKA, debiased": lambda: find("metrics.CKA")(4, 4, debiased=True),
        "MinibatchCKA": find("MinibatchCKA"),
        "MinibatchCKA, rbf": lambda: find("MinibatchCKA")(kernel="rbf"),
        "MutualKNN": lambda: find("metrics.MutualKNN")(k=5),
        "MutualKNN, calibrated": lambda: find("metrics.MutualKNN")(k=5, calibrated=True),
        "RetrievalScores": lambda: find("metrics.RetrievalScores")(k=4),
    }.items():
        for way, value in streamed(make, x, 0.3 * x + 0.5 * y).items():
            parts = fields(value) if hasattr(value, "_asdict") else {"value": value}
            results |= under(f"{name}, {way}", parts)
    return results


@case("torchmetrics.CKA", "torchmetrics.MutualKNN", "torchmetrics.RetrievalScores", dtype=BOTH)
def torchmetrics(dtype):
    x, y = pairs(32, 4, 4, dtype)
    y, results = 0.3 * x + 0.5 * y, {}
    for name, made in {
        "CKA": find("torchmetrics.CKA")(4, 4),
        "CKA, debiased": find("torchmetrics.CKA")(4, 4, debiased=True),
        "MutualKNN": find("torchmetrics.MutualKNN")(k=5),
        "RetrievalScores": find("torchmetrics.RetrievalScores")(k=4),
    }.items():
        first = made(x[:16], y[:16])
        made.update(x[16:], y[16:])
        for way, value in {"batch": first, "all": made.compute()}.items():
            parts = value if isinstance(value, dict) else {"value": value}
            results |= under(f"{name}, {way}", parts)
    return results


@case("LayerComparison", "compare_layers", dtype=BOTH)
def layers(dtype):
    a, b = network(4, 5, 3).to(dtype), network(4, 3, seed=4).to(dtype)
    loader, results = rows(40, 4, dtype).split(8), {}
    for name, measure in {
        "function": find("linear_cka"),
        "CKA": find("metrics.CKA"),
        "debiased": partial(find("metrics.CKA"), debiased=True),
        "minibatch": find("MinibatchCKA"),
        "rbf": partial(find("MinibatchCKA"), kernel="rbf"),
        "neighbors": partial(find("metrics.MutualKNN"), k=5),
    }.items():
        made = find("compare_layers")(a, b, loader, measure)
        results |= under(name, table(made, "layers_a", "layers_b"))
    few = find("compare_layers")(
        a,
        b,
        loader,
        find("linear_cka"),
        layers=["1", "2"],
        layers_b=["0"],
        pool=lambda z: z[:, :2],
    )
    return results | {"pooled": few.scores, "table": made.to_markdown(digits=2)}


@case("PermutationTest", "permutation_test", dtype=BOTH)
def permutations(dtype):
    x, y = rows(30, 4, dtype), rows(30, 3, dtype, seed=1)
    results = {}
    for name in ("procrustes_distance", "mutual_knn"):
        draws = torch.Generator().manual_seed(0)
        made = find("permutation_test")(find(name), x, y, num_permutations=9, generator=draws)
        results |= under(name, made._asdict())
    return results


# Tests for modules, pictures


@case("ACTIVATIONS", "intertwiner")
def symmetries():
    z, results = rows(5, 4, F64), {}
    for name, activation in find("ACTIVATIONS").items():
        a, phi = find("intertwiner")(name, 4, generator=source())
        results |= {f"{name}, value": activation(z), f"{name}, A": a, f"{name}, phi": phi}
    return results


@case("assert_invariant", "assert_not_invariant", "deviation", "random_transformation", dtype=BOTH)
def invariances(dtype):
    x, anchors, results = rows(8, 4, dtype), rows(5, 4, dtype, 2), {}
    code = find("relative_projection")
    for name in (
        *("permutation", "rotation", "translation", "isotropic_scale", "feature_scale"),
        *("sample_scale", "linear", "affine"),
    ):
        change = find("random_transformation")(name, 4, generator=source())
        results[name] = change(x)
        for check in ("assert_invariant", "assert_not_invariant"):
            try:
                find(check)(code, name, x, anchors, generator=source())
                results[f"{name}, {check}"] = "holds"
            except AssertionError:
                results[f"{name}, {check}"] = "fails"
        if results[f"{name}, assert_invariant"] == "fails":
            change = find("deviation")(code, name, x, anchors, generator=source())
            results[f"{name}, deviation"] = change
    return results


@case("CONTRACT")
def contract():
    checks, x = find("CONTRACT"), rows(6, 4, F64)
    anchors = rows(5, 4, seed=2)

    def make(fitted=True):
        made = find("RelativeProjection")(4, 5)
        return made.set_anchors(anchors) if fitted else made

    for name in ("leading_axes", "rows_are_independent", "dtype_is_kept", "gradients", "moves"):
        checks[name](make, x)
    return {"names": listed(checks)}


@case(
    *("plot_anchors", "plot_barcode", "plot_death_times", "plot_image_rows", "plot_layers"),
    *("plot_proxy", "plot_retrieval_curve", "plot_spaces", "plot_stitching_matrix"),
)
def pictures():
    from matplotlib.figure import Figure

    def axes():
        return Figure().add_subplot()

    x, labels = clusters(12, 3, 2)
    deaths = {"before": find("death_times")(x)}
    grid = find("StitchingMatrix")(torch.eye(2), ["a", "b"], ["c", "d"])
    layers = find("LayerComparison")(torch.eye(2), ["a", "b"], ["c", "d"])
    drawn = {
        "anchors": find("plot_anchors")(x, x[:3], labels, ax=axes()),
        "barcode": find("plot_barcode")(deaths, ax=axes(), scale=1.0),
        "deaths": find("plot_death_times")(deaths, ax=axes(), bins=4),
        "images": find("plot_image_rows")({"a": torch.rand(3, 4, 4)}, ax=axes()),
        "layers": find("plot_layers")(layers, ax=axes()),
        "proxy": find("plot_proxy")(x[:, 0], x[:, 1], ax=axes()),
        "ranks": find("plot_retrieval_curve")({"a": torch.arange(1.0, 6.0)}, ax=axes()),
        "spaces": find("plot_spaces")({"a": x}, labels, axes=[axes()])[0],
        "grid": find("plot_stitching_matrix")(grid, ax=axes()),
    }
    return {name: f"{ax.get_xlabel()}; {ax.get_ylabel()}" for name, ax in drawn.items()}
