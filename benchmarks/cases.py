"""What is compared: each of ours with the bare product it rests on, and with named libraries.

Nothing here makes a tensor before it is asked to: a comparison knows the names of its calls, and
builds them when it is run. `bench.py` times them with pytest-benchmark, `ratios.py` in interleaved
pairs; `memory.py` measures what they take beyond their input.

Latentis takes twenty further packages to import: it is a peer of the orthogonal translator where it
is installed, and its relative projection is the product of two normalised matrices that stands here
as a peer of the cosine.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from relreps import (
    AffineTranslator,
    CCATranslator,
    ProcrustesTranslator,
    RelativeProjection,
    SparseRelativeProjection,
    StandardScale,
    Whiten,
)

Call = Callable[[], object]


@dataclass(frozen=True)
class Build:
    """Makes the calls of these names; given true, with sizes that are done in seconds."""

    names: tuple[str, ...]
    make: Callable[[bool], tuple[Call, ...]]

    def __call__(self, quick: bool) -> dict[str, Call]:
        return dict(zip(self.names, self.make(quick), strict=True))


def calls(*names: str) -> Callable[[Callable[[bool], tuple[Call, ...]]], Build]:
    """Names what a function builds: ours, the peer that the target is about, further peers."""
    return lambda make: Build(names, make)


def installed(package: str, name: str) -> tuple[str, ...]:
    """The name of a call to a package, if it is installed."""
    return (name,) if importlib.util.find_spec(package) else ()


@dataclass(frozen=True)
class Comparison:
    """Calls that do the same work.

    Args:
        name: What is done, on what sizes.
        small: The same with the smaller sizes, if it has any.
        build: Makes the calls.
        target: Most that ours may take, as a multiple of that peer; None to report only.
    """

    name: str
    build: Build
    target: float | None = None
    small: str | None = None


def prepare() -> None:
    """One thread, one seed, and an allocator that keeps freed memory.

    A young process returns every freed block of some MiB to the system and fetches it anew, page by
    page, until it has once freed a large one. Which of two calls that hits is a matter of luck.
    """
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy, SciPy and scikit-learn, for as long as the process lives
    torch.manual_seed(0)
    torch.empty(31 << 20, dtype=torch.uint8).fill_(0)


@cache
def normal(*shape: int) -> Tensor:
    """The one matrix of this shape."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


# Dense projections.

BATCH, WIDTH, ANCHORS = 1024, 768, 768


def forward(similarity: str, further: bool = False) -> Build:
    peers = ("F.normalize(x) @ F.normalize(a).T", "sklearn cosine_similarity") if further else ()

    @calls("relreps", "x @ a.T", *peers)
    def build(quick: bool) -> tuple[Call, ...]:
        x, anchors = normal(BATCH, WIDTH), normal(ANCHORS, WIDTH)
        projection = RelativeProjection.from_anchors(anchors, similarity)
        x_np, anchors_np = x.numpy(), anchors.numpy()
        found = (
            lambda: projection(x),
            lambda: x @ anchors.T,
            lambda: F.normalize(x, dim=-1) @ F.normalize(anchors, dim=-1).T,
            lambda: cosine_similarity(x_np, anchors_np),
        )
        return found[: 2 + len(peers)]

    return build


def backward(similarity: str) -> Build:
    @calls("relreps", "x @ a.T")
    def build(quick: bool) -> tuple[Call, ...]:
        x = normal(BATCH, WIDTH).clone().requires_grad_()
        anchors, upstream = normal(ANCHORS, WIDTH), torch.randn(BATCH, ANCHORS)
        projection = RelativeProjection.from_anchors(anchors, similarity)
        return (
            lambda: torch.autograd.grad(projection(x), x, upstream),
            lambda: torch.autograd.grad(x @ anchors.T, x, upstream),
        )

    return build


def distance(similarity: str, metric: str) -> Build:
    @calls("relreps", f"scipy cdist, {metric}", "x @ a.T")
    def build(quick: bool) -> tuple[Call, ...]:
        x, anchors = normal(BATCH, WIDTH), normal(ANCHORS, WIDTH)
        projection = RelativeProjection.from_anchors(anchors, similarity)
        x_np, anchors_np = x.double().numpy(), anchors.double().numpy()
        return (
            lambda: projection(x),
            lambda: cdist(x_np, anchors_np, metric),
            lambda: x @ anchors.T,
        )

    return build


SHAPE = f"B={BATCH}, D={WIDTH}, A={ANCHORS}"
PROJECTION = [
    Comparison(f"cosine forward, {SHAPE}", forward("cosine", further=True), 1.10),
    Comparison("cosine forward + backward", backward("cosine"), 1.15),
    Comparison("inner forward", forward("inner"), 1.10),
    Comparison("inner forward + backward", backward("inner"), 1.15),
    Comparison("euclidean forward", forward("euclidean"), 1.3),
    Comparison("euclidean forward + backward", backward("euclidean")),
    Comparison("angular forward", forward("angular")),
    Comparison("angular forward + backward", backward("angular")),
    Comparison("basis forward", forward("basis")),
    Comparison("l1 forward", distance("l1", "cityblock")),
    Comparison("linf forward", distance("linf", "chebyshev")),
]


# Sparse codes of many anchors.


def chunked_topk(x: Tensor, anchors: Tensor, k: int, chunk: int = 8192) -> tuple[Tensor, Tensor]:
    """The k largest products, as one writes it by hand: ties fall as they may."""
    values, indices = x.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.long)
    for start in range(0, len(anchors), chunk):
        part = (x @ anchors[start : start + chunk].T).topk(k)
        values, order = torch.cat((values, part.values), 1).topk(k)
        indices = torch.cat((indices, part.indices + start), 1).gather(1, order)
    return values, indices


def sparse(csr: bool) -> Build:
    @calls("relreps", "chunked matmul + topk")
    def build(quick: bool) -> tuple[Call, ...]:
        x = F.normalize(normal(1024, 64), dim=-1)
        anchors = F.normalize(normal(40_000 if quick else 200_000, 64), dim=-1)
        projection = SparseRelativeProjection(64, len(anchors), 100).set_anchors(anchors)
        return (
            (lambda: projection(x)) if csr else (lambda: projection.topk(x)),
            lambda: chunked_topk(x, anchors, 100),
        )

    return build


SPARSE = [
    Comparison(
        "top 100 of 200 000 anchors x 64, B=1024",
        sparse(csr=False),
        1.5,
        "top 100 of 40 000 anchors x 64, B=1024",
    ),
    Comparison("the same as a CSR tensor", sparse(csr=True), 1.5),
]


# Fits.


def rows(quick: bool) -> Tensor:
    return normal(100_000 if quick else 1_000_000, 384)


def chunked_squares(x: Tensor, chunk: int = 1024) -> Tensor:
    total = x.new_zeros(x.shape[1])
    for part in x.split(chunk):
        total += part.square().sum(0)
    return total


def chunked_products(x: Tensor, chunk: int = 2048) -> Tensor:
    """Float64 products of the features of float32 rows."""
    total = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for part in x.split(chunk):
        wide = part.double()
        total += wide.T @ wide
    return total


@calls("relreps", "x.square().sum(0)", "chunked x.square().sum(0)", "sklearn StandardScaler.fit")
def standard(quick: bool) -> tuple[Call, ...]:
    x = rows(quick)
    ours, theirs = StandardScale(x.shape[1]), x.numpy()
    return (
        lambda: ours.fit(x),
        lambda: x.square().sum(0),
        lambda: chunked_squares(x),
        lambda: StandardScaler().fit(theirs),
    )


@calls("relreps", "sklearn StandardScaler.partial_fit")
def standard_streamed(quick: bool) -> tuple[Call, ...]:
    x = rows(quick)
    chunks = x.split(10_000)
    arrays = np.array_split(x.numpy(), len(chunks))

    def stream(scaler: StandardScale | StandardScaler, parts: object) -> None:
        for part in parts:  # type: ignore[attr-defined]
            scaler.partial_fit(part)

    return (
        lambda: stream(StandardScale(x.shape[1]), chunks),
        lambda: stream(StandardScaler(), arrays),
    )


@calls("relreps", "x.T @ x in float64, by chunks", "x.T @ x")
def whitening(quick: bool) -> tuple[Call, ...]:
    x = rows(quick)
    ours = Whiten(x.shape[1])
    # Products in float32 would leave the directions of small variance to rounding.
    return lambda: ours.fit(x), lambda: chunked_products(x), lambda: x.T @ x


FITS = [
    Comparison(
        "StandardScale.fit, 1 000 000 x 384", standard, 3.0, "StandardScale.fit, 100 000 x 384"
    ),
    Comparison("StandardScale.partial_fit, chunks of 10 000", standard_streamed),
    Comparison("Whiten.fit, 1 000 000 x 384", whitening, 1.25, "Whiten.fit, 100 000 x 384"),
]


# Translation.


@calls("relreps", "x @ r")
def translation(quick: bool) -> tuple[Call, ...]:
    x, y = normal(4096, 768), normal(4097, 768)[:4096]
    translator = ProcrustesTranslator(768, 768).fit(x, y)
    rotation = translator.rotation.to(x.dtype)
    return lambda: translator(x), lambda: x @ rotation


Peers = tuple[tuple[str, ...], Callable[[Tensor, Tensor], tuple[Call, ...]]]


def translator_fit(make: type, dtype: torch.dtype, peers: Peers) -> Build:
    """A stream of float32 pairs, against the products and the SVD in the given type."""
    kind = str(dtype).removeprefix("torch.")
    names, further = peers

    @calls("relreps", f"three {kind} products and an SVD", *names)
    def build(quick: bool) -> tuple[Call, ...]:
        n = 20_000 if quick else 100_000
        x, y = normal(n, 384), normal(n + 1, 384)[:n]
        wide_x, wide_y = x.to(dtype), y.to(dtype)

        def stream() -> None:
            translator = make(384, 384)
            for a, b in zip(x.split(10_000), y.split(10_000), strict=True):
                translator.partial_fit(a, b)
            translator.solve()

        def products() -> None:
            cross = wide_x.T @ wide_y
            wide_x.T @ wide_x
            wide_y.T @ wide_y
            torch.linalg.svd(cross)

        return stream, products, *further(x, y)

    return build


def orthogonal(x: Tensor, y: Tensor) -> tuple[Call, ...]:
    x_np, y_np = x.numpy(), y.numpy()

    def scipy_fit() -> None:
        orthogonal_procrustes(x_np - x_np.mean(0), y_np - y_np.mean(0))

    if not LATENTIS:
        return (scipy_fit,)
    from latentis.transform.translate.functional import svd_align_state

    return scipy_fit, lambda: svd_align_state(x - x.mean(0), y - y.mean(0))


def ridge(x: Tensor, y: Tensor) -> tuple[Call, ...]:
    x_np, y_np = x.numpy(), y.numpy()
    return (lambda: Ridge().fit(x_np, y_np),)


LATENTIS = installed("latentis", "latentis svd_align_state, centred")
ORTHOGONAL: Peers = (("scipy orthogonal_procrustes, centred", *LATENTIS), orthogonal)
RIDGE: Peers = (("sklearn Ridge.fit",), ridge)
NO_PEERS: Peers = ((), lambda x, y: ())

TRANSLATION = [
    Comparison("ProcrustesTranslator, 4096 x 768 to 768", translation, 1.10),
    *(
        Comparison(
            f"{make.__name__} streamed, 100 000 x 384 to 384",
            translator_fit(make, dtype, peers),
            1.3,
            f"{make.__name__} streamed, 20 000 x 384 to 384",
        )
        for make, dtype, peers in (
            (ProcrustesTranslator, torch.float32, ORTHOGONAL),
            (AffineTranslator, torch.float64, RIDGE),
            (CCATranslator, torch.float64, NO_PEERS),
        )
    ),
]

COMPARISONS = [*PROJECTION, *SPARSE, *FITS, *TRANSLATION]
