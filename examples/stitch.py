"""Networks trained apart, joined with no further training: relative codes make them fit.

Two classifiers of digits learn alone, from different seeds. Then the encoder of each feeds the head
of the other: once with latents as they are, once with cosines to the same 200 digits.

    python examples/stitch.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import relreps

x, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
x = x.float() / 16  # 1797 digits of 8 x 8 pixels
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, test = order[:1300], order[1300:]

# The anchors: the same samples for every network, here as many of each class.
sampler = relreps.StratifiedAnchors(200, generator=torch.Generator().manual_seed(0))
anchors = x[train[sampler(x[train], labels[train])]]


def trained(seed, relative):
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32))
    if relative:
        # Encodes the anchors at every step as well, and hands on the cosines to them.
        projection = relreps.RelativeProjection(32, len(anchors))
        encoder = relreps.RelativeEncoder(encoder, projection, anchors, detach_anchors=False)
    width = len(anchors) if relative else 32
    model = relreps.StitchedModel(encoder, nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10)))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(200):
        rows = train[torch.randint(len(train), (100,))]
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), labels[rows]).backward()
        optimizer.step()
    return model.eval()


accuracies = {}
for kind in ("absolute", "relative"):
    models = {f"network {seed}": trained(seed, kind == "relative") for seed in (1, 2)}
    accuracies[kind] = relreps.stitching_matrix(
        {name: model.encoder for name, model in models.items()},
        {name: model.decoder for name, model in models.items()},
        x[test],
        lambda logits: 100 * (logits.argmax(-1) == labels[test]).double().mean(),
    )
    print(f"\nAccuracy on {len(test)} other digits in %, {kind} latents: encoder \\ head\n")
    print(accuracies[kind].to_markdown(digits=1))
