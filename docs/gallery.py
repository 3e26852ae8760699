"""The pictures of the gallery, on data and networks that take seconds.

    python docs/gallery.py FOLDER

The documentation runs this when it is built, and shows each of these functions below its picture.
"""

import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from torch import nn
from torch.nn import functional as F

import relreps
from relreps import plots
from relreps.metrics import CKA, latent_similarity, retrieval_ranks

CLASSES, FEATURES, LATENT = 8, 24, 12


def samples(n, seed):
    """Points about the centres of some classes, bent, and the classes."""
    draw = torch.Generator().manual_seed(0)
    centres = 1.2 * torch.randn(CLASSES, FEATURES, generator=draw)
    bend = torch.randn(FEATURES, FEATURES, generator=draw) / FEATURES**0.5
    draw.manual_seed(1 + seed)
    labels = torch.randint(CLASSES, (n,), generator=draw)
    x = centres[labels] + torch.randn(n, FEATURES, generator=draw)
    return x + torch.sin(x @ bend), labels


def network(seed, steps=150, width=48, rate=3e-3):
    """An encoder and a head, trained together."""
    torch.manual_seed(seed)
    widths = (FEATURES, width, width)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.GELU())]
    encoder = nn.Sequential(*layers, nn.Linear(width, LATENT))
    head = nn.Linear(LATENT, CLASSES)
    model = nn.Sequential(encoder, head)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    x, labels = samples(1000, seed)
    for _ in range(steps):
        rows = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), labels[rows]).backward()
        optimizer.step()
    return model.requires_grad_(False)


def accuracy(outputs, labels):
    return float((outputs.argmax(-1) == labels).float().mean())


X, LABELS = samples(600, seed=1000)
A, B = network(1), network(2)
ZA, ZB = A[0](X), B[0](X)
PICKS = relreps.FarthestAnchors(32, generator=torch.Generator().manual_seed(0))(ZA)
RA, RB = (relreps.relative_projection(z, z[PICKS]) for z in (ZA, ZB))


def spaces():
    """Absolute above, relative below: each pair in one plane, fitted on both together."""
    _, axes = plt.subplots(2, 2, figsize=(7, 7), layout="constrained")
    plots.plot_spaces({"latents of a": ZA, "latents of b": ZB}, LABELS, axes[0], basis="joint")
    plots.plot_spaces({"codes of a": RA, "codes of b": RB}, LABELS, axes[1], basis="joint")


def layers():
    comparison = relreps.compare_layers(A, B, X.split(100), partial(CKA, debiased=True))
    plots.plot_layers(comparison, title="linear CKA of two networks, debiased")


def retrieval():
    translated = relreps.ProcrustesTranslator(LATENT, LATENT).fit(ZA[PICKS], ZB[PICKS])(ZA)
    spaces = {"relative": (RA, RB), "translated": (translated, ZB), "absolute": (ZA, ZB)}
    ranks = {name: retrieval_ranks(*pair) for name, pair in spaces.items()}
    plots.plot_retrieval_curve(ranks, title="from a to b, 600 keys")


def proxy():
    models = [
        network(seed, steps, width)
        for seed, (steps, width) in enumerate(
            (steps, width) for steps in (5, 10, 20, 40, 80, 160) for width in (8, 16, 32, 64)
        )
    ]
    similar = torch.stack([latent_similarity(m[0](X), ZA, PICKS) for m in models])
    accuracies = torch.tensor([accuracy(m(X), LABELS) for m in models])
    plots.plot_proxy(similar, accuracies, title="24 networks and how like a they are")


def stitching():
    names = {"a": (A, ZA), "b": (B, ZB), "c": (c := network(3), c[0](X))}
    translators = {
        (i, j): relreps.ProcrustesTranslator(LATENT, LATENT).fit(z[PICKS], w[PICKS])
        for i, (_, z) in names.items()
        for j, (_, w) in names.items()
    }
    encoders, decoders = ({n: m[part] for n, (m, _) in names.items()} for part in (0, 1))
    _, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
    for ax, title, by in zip(axes, ("absolute", "translated"), (None, translators), strict=True):
        matrix = relreps.stitching_matrix(
            encoders, decoders, X, lambda outputs: accuracy(outputs, LABELS), by
        )
        plots.plot_stitching_matrix(matrix, ax, title=f"accuracy, {title}", limits=(0, 1))


def anchors():
    _, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
    draw = torch.Generator().manual_seed(0)
    for ax, sampler in zip(axes, (relreps.UniformAnchors, relreps.FarthestAnchors), strict=True):
        picks = sampler(20, generator=draw)(ZA)
        plots.plot_anchors(ZA, ZA[picks], LABELS, ax, title=sampler.__name__)


def images():
    draw = torch.Generator().manual_seed(0)
    place = torch.rand(200, 4, generator=draw)
    grid = torch.linspace(0, 1, 20)
    across = (-((grid - place[:, :1]) ** 2) / (0.01 + 0.05 * place[:, 2:3])).exp()
    down = (-((grid - place[:, 1:2]) ** 2) / (0.01 + 0.05 * place[:, 3:])).exp()
    blobs = (down[:, :, None] * across[:, None, :]).flatten(1)
    u, s, vh = torch.linalg.svd(blobs - blobs.mean(0), full_matrices=False)
    rows = {"inputs": blobs[:10]}
    for rank in (30, 10, 3):
        rows[f"{rank} components"] = (u[:10, :rank] * s[:rank]) @ vh[:rank] + blobs.mean(0)
    plots.plot_image_rows({name: r.view(-1, 20, 20).clamp(0, 1) for name, r in rows.items()})


def death_times():
    """Connected components of each class, before and after a head has pulled them together."""
    _, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    clouds = {"inputs": X, "latents": ZA}
    times = {
        name: [relreps.death_times(z[c == LABELS][:40] / z.std()) for c in range(CLASSES)]
        for name, z in clouds.items()
    }
    plots.plot_death_times({n: torch.stack(t) for n, t in times.items()}, axes[0])
    plots.plot_barcode({f"{n}, class 0": t[0] for n, t in times.items()}, axes[1])


PICTURES = (spaces, layers, retrieval, proxy, stitching, anchors, images, death_times)


def main(folder):
    """Draw all of them."""
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        plt.close("all")
        picture()
        plt.savefig(folder / f"{picture.__name__}.png", dpi=90)
    plt.close("all")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
