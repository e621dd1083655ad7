"""A plain PyTorch loop on real digits, with a teacher."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from stillhouse import Frozen, forward_kl

pixels, classes = load_digits(return_X_y=True)
images, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(classes)
SEEN = 1200  # the images after these are held out


def network(width):
    return nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


def train(model, steps, teacher=None):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for rows in torch.randint(SEEN, (steps, 64)):
        logits = model(images[rows])
        loss = cross_entropy(logits, labels[rows])
        if teacher is not None:
            loss = loss + forward_kl(logits, teacher(images[rows]), temperature=4.0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def accuracy(model):
    return (model.eval()(images[SEEN:]).argmax(1) == labels[SEEN:]).float().mean().item()


if __name__ == "__main__":
    torch.manual_seed(0)
    large, small = network(256), network(8)
    train(large, 300)
    train(small, 300, teacher=Frozen(large))
    print(f"held out: large {accuracy(large):.3f}, small {accuracy(small):.3f}")
