"""A head that exists, and an encoder that it was not trained with: move the latents between them.

Two encoders of digits learn alone, with latents of different widths. A map fitted on a few digits
that both have encoded moves the latents of the first into the space of the second, whose head
stays as it is.

    python examples/translate.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import relreps
from relreps.metrics import recall_at_k

x, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
x = x.float() / 16  # 1797 digits of 8 x 8 pixels
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, pairs, test = order[:1000], order[1000:1300], order[1300:]


def trained(seed, width):
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, width))
    head = nn.Linear(width, 10)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 3e-3)
    for _ in range(200):
        rows = train[torch.randint(len(train), (100,))]
        optimizer.zero_grad()
        F.cross_entropy(head(encoder(x[rows])), labels[rows]).backward()
        optimizer.step()
    return encoder.requires_grad_(False), head.requires_grad_(False)


(a, _), (b, head) = trained(1, 24), trained(2, 32)


def accuracy(latents):
    return 100 * (head(latents).argmax(-1) == labels[test]).double().mean().item()


own = accuracy(b(x[test]))
print(f"The head with its own encoder: {own:.1f} %. With the other one, moved by a map:\n")
print("| map             | pairs | accuracy, % | recall@1 |")
print("| --------------- | ----: | ----------: | -------: |")
accuracies = {}
for count in (30, 300):
    for name, translator in {
        "Procrustes": relreps.ProcrustesTranslator(24, 32, scale="umeyama"),
        "least squares": relreps.AffineTranslator(24, 32),
        "ridge by GCV": relreps.AffineTranslator(24, 32, ridge="gcv"),
    }.items():
        translator.fit(a(x[pairs[:count]]), b(x[pairs[:count]]))
        moved = translator(a(x[test]))
        accuracies[name, count] = accuracy(moved)
        recall = recall_at_k(moved, b(x[test]), k=1).item()
        print(f"| {name:15} | {count:5} | {accuracies[name, count]:11.1f} | {recall:8.3f} |")

print("\nRidge by GCV, in the words of the report on pairs that it was not fitted on:\n")
print(relreps.translation_report(translator, a(x[pairs]), b(x[pairs])))
