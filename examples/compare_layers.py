"""Which layers of two networks are alike? Every layer of the one with every layer of the other.

Two classifiers of digits learn alone, from different seeds. Linear CKA, which keeps no rows, and
mutual nearest neighbours compare their layers on digits that neither has seen.

    python examples/compare_layers.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import relreps
from relreps.metrics import CKA, mutual_knn

x, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
x = x.float() / 16  # 1797 digits of 8 x 8 pixels
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, test = order[:1300], order[1300:]


def network(seed, steps=200):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 48), nn.GELU(), nn.Linear(48, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        rows = train[torch.randint(len(train), (100,))]
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), labels[rows]).backward()
        optimizer.step()
    return model


trained, other, untrained = network(1), network(2), network(3, steps=0)
layers = ["0", "2", "4"]  # names as in `named_modules`; by default all without layers inside
batches = x[test].split(100)
comparisons = {
    "CKA of two trained networks": relreps.compare_layers(trained, other, batches, CKA, layers),
    "CKA of a trained and an untrained one": relreps.compare_layers(
        trained, untrained, batches, CKA, layers
    ),
    "mutual nearest neighbours of the trained ones": relreps.compare_layers(
        trained, other, batches, mutual_knn, layers
    ),
}
for title, comparison in comparisons.items():
    print(f"\n{title}\n\n{comparison.to_markdown(digits=2)}")
