"""The hypernym graph of WordNet's nouns, and convolutions on it in plain PyTorch."""

import re
import warnings
import zlib
from typing import NamedTuple

import torch
from _encoders import wordnet_nouns
from torch import Tensor, nn


class SparseMap(torch.autograd.Function):
    """A constant sparse matrix times a dense one; the backward multiplies by its transpose."""

    @staticmethod
    def forward(ctx, matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ dense

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ grad


class Graph(NamedTuple):
    """Nouns, their hypernyms, words of their glosses, and the file that each stands in."""

    adjacency: Tensor  # (N, N) CSR, symmetric, normalised, with loops
    words: Tensor  # (N, buckets) CSR, rows of sum one
    words_transposed: Tensor
    labels: Tensor

    def spread(self, x: Tensor) -> Tensor:
        return SparseMap.apply(self.adjacency, self.adjacency, x)

    def from_words(self, weights: Tensor) -> Tensor:
        return SparseMap.apply(self.words, self.words_transposed, weights)


def read_graph(buckets: int) -> Graph:
    """The nouns of WordNet; words of glosses are hashed into so many buckets."""
    warnings.filterwarnings("ignore", "Sparse (CSR|invariant)")
    lines = wordnet_nouns().read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith(" ")]  # the licence
    place = {line[:8]: i for i, line in enumerate(lines)}
    labels, edges, words = [], [], []
    for i, line in enumerate(lines):
        head, _, gloss = line.partition("|")
        fields = head.split()
        labels.append(int(fields[1]))
        first = 5 + 2 * int(fields[3], 16)  # after the words, and the number of pointers
        for j in range(first, first + 4 * int(fields[first - 1]), 4):
            if fields[j] in ("@", "@i"):  # hypernym, and class of an instance
                edges.append((i, place[fields[j + 1]]))
        for word in set(re.findall("[a-z]+", gloss.lower())):
            words.append((i, zlib.crc32(word.encode()) % buckets))
    n = len(lines)
    up = torch.tensor(edges).T
    indices = torch.cat((up, up.flip(0), torch.arange(n).expand(2, -1)), 1)
    adjacency = torch.sparse_coo_tensor(indices, torch.ones(indices.shape[1]), (n, n)).coalesce()
    scale = torch.sparse.sum(adjacency, 1).to_dense().rsqrt()
    rows, columns = adjacency.indices()
    values = adjacency.values() * scale[rows] * scale[columns]
    adjacency = torch.sparse_coo_tensor(adjacency.indices(), values, (n, n)).coalesce()
    rows, columns = torch.tensor(words).T
    lengths = torch.bincount(rows, minlength=n)
    features = torch.sparse_coo_tensor(
        torch.stack((rows, columns)), 1 / lengths[rows].float(), (n, buckets)
    ).coalesce()
    labels = torch.tensor(labels)
    return Graph(
        adjacency.to_sparse_csr(),
        features.to_sparse_csr(),
        features.t().coalesce().to_sparse_csr(),
        labels - labels.min(),
    )


class GraphNetwork(nn.Module):
    """Convolutions (Kipf and Welling), or with the node itself beside its neighbourhood."""

    def __init__(
        self,
        graph: Graph,
        kind: str,
        layers: int,
        width: int,
        activation: nn.Module,
        dropout: float,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        self.words = nn.Parameter(nn.init.xavier_uniform_(torch.empty(graph.words.shape[1], width)))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.head = nn.Linear(width, int(graph.labels.max()) + 1)

    def encode(self, graph: Graph) -> Tensor:
        """The latents of all nodes."""
        # Words are few and their rows sum to one: without a scale, signals start out tiny.
        x = 10 * graph.from_words(self.words)
        for layer in self.layers:
            near = graph.spread(x)
            x = layer(self.dropout(self.activation(near if self.kind == "gcn" else near + x)))
        return x
