"""A training run that may be killed, for ``test_checkpoint.py``.

    training_program.py FOLDER WORKERS [STEP]

Goes on from the checkpoint in FOLDER if there is one, writes one every five steps and the
result at the end. With STEP it is killed in the middle of that step.
"""

import itertools
import json
import os
import random
import signal
import sys

import numpy as np
import torch
from sklearn.datasets import load_digits

from rngscope import RNGState, RNGStream, derive_seed, seed_all
from rngscope.data import per_item, seed_worker

SEED, EPOCHS, STEPS, BATCH = 42, 3, 8, 32


class Digits:
    """Images that are turned, made noisy and partly hidden, each by another library."""

    def __init__(self):
        images, labels = load_digits(return_X_y=True)
        self.images, self.labels = images[: STEPS * BATCH] / 16, labels[: STEPS * BATCH]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = np.rot90(self.images[index].reshape(8, 8), random.choice([0, 0, 1, 3]))
        image = torch.from_numpy(image + np.random.normal(0, 0.1, image.shape)).float().flatten()
        return image * (torch.rand(64) > 0.1), int(self.labels[index])


def run(folder, workers, killed_at):
    torch.set_num_threads(1)
    seed_all(SEED)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(32, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    smoothing = RNGStream(derive_seed(SEED, "smoothing"))
    data = per_item(Digits(), seed=derive_seed(SEED, "augment"))
    path = os.path.join(folder, "checkpoint.pt")
    done = 0
    saved = None
    if os.path.exists(path):
        saved = torch.load(path, weights_only=True)
        done = saved["done"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        smoothing.load_state_dict(saved["smoothing"])
    began_at = done
    for epoch in range(done // STEPS, EPOCHS):
        data.set_epoch(epoch)
        order = torch.Generator().manual_seed(derive_seed(SEED, "order", epoch))
        loader = torch.utils.data.DataLoader(
            data,
            batch_size=BATCH,
            shuffle=True,
            num_workers=workers,
            worker_init_fn=seed_worker,
            generator=order,
        )
        batches = itertools.islice(loader, done % STEPS, None)
        if saved is not None:
            # Last of all: to build the model and to look for the place has drawn numbers.
            RNGState.from_state_dict(saved.pop("rng")).restore()
            saved = None
        for images, labels in batches:
            images = images + float(np.random.normal(0, 0.01)) * random.random()
            with smoothing:
                factor = 0.1 * random.random()
            loss = torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=factor)
            optimizer.zero_grad()
            loss.backward()
            if done == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            optimizer.step()
            done += 1
            if done % 5 == 0:
                state = {
                    "done": done,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "smoothing": smoothing.state_dict(),
                    "rng": RNGState.capture().state_dict(),
                }
                torch.save(state, path + ".new")
                os.replace(path + ".new", path)
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    result = {
        "began_at": began_at,
        "done": done,
        "loss": loss.item(),
        "weights": weights.hex(),
        "rng": RNGState.capture().state_dict(),
        "smoothing": smoothing.state_dict(),
    }
    with open(os.path.join(folder, "result.json"), "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
