"""The topological densification loss in a plain loop, on batches of whole classes.

`ClassBatchSampler` gives batches of 16 digits of each class. The loss looks at the cloud of each
class in the latent space and draws the edges of its minimum spanning tree to one length, the scale.

    python examples/loss_in_a_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import relreps

x, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
x = x.float() / 16  # 1797 digits of 8 x 8 pixels
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, test = order[:500], order[500:]
SAMPLES, SCALE, WEIGHT = 16, 1.0, 0.02


def trained(weight):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32))
    head = nn.Linear(32, 10)
    loss = relreps.TopologicalDensificationLoss(SCALE)
    sampler = relreps.ClassBatchSampler(labels[train], SAMPLES)  # all classes in every batch
    loader = DataLoader(TensorDataset(x[train], labels[train]), batch_sampler=sampler)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 3e-3)
    for epoch in range(60):
        sampler.set_epoch(epoch)
        for images, targets in loader:
            z = encoder(images)
            objective = F.cross_entropy(head(z), targets) + weight * loss(z, targets)
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
    return encoder.requires_grad_(False), head.requires_grad_(False)


print("| training      | accuracy, % | edge within a class | between their means |")
print("| ------------- | ----------: | ------------------: | ------------------: |")
found = {}
for name, weight in {"cross-entropy": 0.0, "with the loss": WEIGHT}.items():
    encoder, head = trained(weight)
    z = encoder(x[test])
    accuracy = 100 * (head(z).argmax(-1) == labels[test]).double().mean().item()
    classes = [z[labels[test] == c] for c in range(10)]
    edge = torch.stack([relreps.death_times(rows[:SAMPLES]).mean() for rows in classes]).mean()
    between = relreps.death_times(torch.stack([rows.mean(0) for rows in classes])).mean()
    found[name] = accuracy, edge.item(), between.item()
    print(f"| {name} | {accuracy:11.1f} | {edge:19.2f} | {between:19.2f} |")
print(f"\nLengths in the latent space of {len(test)} other digits; the loss asks for {SCALE:g}.")
