"""An Accelerate loop on real digits, with a teacher."""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from stillhouse import Frozen, forward_kl

pixels, classes = load_digits(return_X_y=True)
images, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(classes)
SEEN = 1200  # the images after these are held out


def network(width):
    return nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


def train(model, epochs, teacher=None):
    accelerator = Accelerator(gradient_accumulation_steps=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(images[:SEEN], labels[:SEEN]), batch_size=40, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = []
    for _ in range(epochs):
        for image, label in loader:
            with accelerator.accumulate(model):
                logits = model(image)
                loss = cross_entropy(logits, label)
                if teacher is not None:
                    loss = loss + forward_kl(logits, teacher(image), temperature=4.0).mean()
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def accuracy(model):
    return (model.cpu().eval()(images[SEEN:]).argmax(1) == labels[SEEN:]).float().mean().item()


if __name__ == "__main__":
    torch.manual_seed(0)
    large, small = network(256), network(8)
    train(large, 20)
    train(small, 20, teacher=Frozen(large))
    print(f"held out: large {accuracy(large):.3f}, small {accuracy(small):.3f}")
