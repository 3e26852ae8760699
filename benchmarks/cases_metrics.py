"""Measures of two spaces: each of ours with the products it rests on, and with named libraries."""

from __future__ import annotations

from cases import Call, Comparison, calls, normal
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from relreps.metrics import cknna, jaccard_at_k, mean_reciprocal_rank, mutual_knn, retrieval_scores

K = 10


def chunked_product(x: Tensor, y: Tensor, chunk: int = 1024) -> None:
    for part in x.split(chunk):
        part @ y.T


def spaces(quick: bool) -> tuple[Tensor, Tensor]:
    n = 4000 if quick else 20_000
    x = normal(n, 300)
    return x, x + 3 * normal(n, 301)[:, :300]


def products(*pairs: tuple[Tensor, Tensor]) -> Call:
    """Every row with every other, a chunk at a time, and nothing else."""

    def call() -> None:
        for a, b in pairs:
            chunked_product(a, b)

    return call


@calls("relreps", "chunked x @ y.T")
def reciprocal_rank(quick: bool) -> tuple[Call, ...]:
    x, y = spaces(quick)
    return (
        lambda: mean_reciprocal_rank(x, y),
        products((x, y)),
    )


@calls("relreps", "the two chunked products")
def jaccard(quick: bool) -> tuple[Call, ...]:
    x, y = spaces(quick)
    return (
        lambda: jaccard_at_k(x, y, K),
        products((x, y), (y, y)),
    )


@calls("relreps", "the four chunked products")
def both_directions(quick: bool) -> tuple[Call, ...]:
    x, y = spaces(quick)
    return (
        lambda: retrieval_scores(x, y, K),
        products((x, y), (y, x), (x, x), (y, y)),
    )


def neighbours(measure: Call) -> Call:
    @calls("relreps", "the two chunked products", "sklearn NearestNeighbors, brute, both spaces")
    def build(quick: bool) -> tuple[Call, ...]:
        x, y = spaces(quick)
        rows = x.numpy(), y.numpy()

        def brute_force() -> None:
            for side in rows:
                search = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute")
                search.fit(side).kneighbors(return_distance=False)

        return (
            lambda: measure(x, y, K),
            products((x, x), (y, y)),
            brute_force,
        )

    return build


METRICS = [
    Comparison(
        "mean_reciprocal_rank, 20 000 x 300",
        reciprocal_rank,
        1.4,
        "mean_reciprocal_rank, 4000 x 300",
    ),
    Comparison("jaccard_at_k, 20 000 x 300", jaccard, small="jaccard_at_k, 4000 x 300"),
    Comparison(
        "retrieval_scores, 20 000 x 300", both_directions, small="retrieval_scores, 4000 x 300"
    ),
    Comparison("mutual_knn, 20 000 x 300", neighbours(mutual_knn), 1.4, "mutual_knn, 4000 x 300"),
    Comparison("cknna, 20 000 x 300", neighbours(cknna), small="cknna, 4000 x 300"),
]
