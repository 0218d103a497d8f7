"""Real training: scikit-learn's digits, a small model with dropout, all three libraries drawing.

NumPy shuffles, ``random`` augments, torch initialises, drops out and loads. Nothing is compared
but the weights at the end, bit for bit.
"""

import random

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
datasets = pytest.importorskip("sklearn.datasets")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from rngscope import RNGStream, rng_scope, seeded  # noqa: E402

# From Python 3.12 on every fork of a process with threads is told.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

EPOCHS = 3


@pytest.fixture(scope="module")
def digits():
    """Return 256 images of 8 by 8 as float32 of shape (256, 64), and their int64 labels."""
    images, labels = datasets.load_digits(return_X_y=True)
    return torch.tensor(images[:256] / 16, dtype=torch.float32), torch.tensor(labels[:256])


def make_model():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))


def augment(images):
    """Move half of the images by a pixel, and add noise."""
    moved = [
        image.roll(random.choice([-1, 1]), dims=1) if random.random() < 0.5 else image
        for image in images.view(-1, 8, 8)
    ]
    noise = torch.full((len(moved), 1, 1), random.gauss(0, 0.01))
    return (torch.stack(moved) + noise).view(-1, 64)


def train(digits, after_epoch=lambda model: None):
    """Train from scratch; return all weights in one vector."""
    images, labels = digits
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(EPOCHS):
        model.train()
        for rows in np.array_split(np.random.permutation(len(images)), 8):
            loss = nn.functional.cross_entropy(model(augment(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        after_epoch(model)
    assert np.isfinite(loss.item()) and loss.item() < 2.2, "it learns nothing"
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def same_bits(first, second):
    return first.numpy().tobytes() == second.numpy().tobytes()


def seed_by_hand(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def make_validation(digits, workers, monte_carlo=True):
    """Return a validation loop that draws from all three libraries."""

    def validate(model):
        # Monte Carlo dropout, on images that are augmented too: a validation that draws a lot.
        model.train(monte_carlo)
        loader = DataLoader(
            TensorDataset(*digits), batch_size=64, shuffle=True, num_workers=workers
        )
        right = 0
        with torch.no_grad():
            for images, labels in loader:
                right += (model(augment(images)).argmax(1) == labels).sum().item()
                np.random.rand()
        return right

    return validate


def test_two_runs_in_a_scope_end_with_the_same_weights(digits):
    with rng_scope(0):
        first = train(digits)
    # What happens in between does not matter.
    seed_by_hand(random.randrange(2**32))
    with rng_scope(0):
        second = train(digits)
    assert same_bits(first, second)


def test_a_scope_trains_as_seeding_by_hand_does(digits):
    seed_by_hand(0)
    by_hand = train(digits)
    with rng_scope(0):
        in_scope = train(digits)
    assert same_bits(by_hand, in_scope)


def test_without_a_scope_two_runs_differ(digits):
    """The comparison above can fail."""
    assert not same_bits(train(digits), train(digits))


@pytest.mark.parametrize("source", ["python", "numpy", "torch"])
def test_every_source_matters(digits, source):
    """The comparison above can fail for each library alone."""
    weights = []
    for seed in (1, 2):
        with rng_scope(0), rng_scope(seed, sources=[source]):
            weights.append(train(digits))
    assert not same_bits(*weights)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seed", [None, 7])
def test_a_validation_in_a_scope_does_not_change_training(digits, workers, seed):
    validate = make_validation(digits, workers)
    results = []

    def validate_in_scope(model):
        with rng_scope(seed):
            results.append(validate(model))

    seed_by_hand(0)
    without = train(digits)
    after_without = random.random(), np.random.rand(), torch.rand(1).item()
    seed_by_hand(0)
    interrupted = train(digits, validate_in_scope)
    after_interrupted = random.random(), np.random.rand(), torch.rand(1).item()

    assert len(results) == EPOCHS
    assert same_bits(without, interrupted)
    assert after_without == after_interrupted


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["decorated", "stream"])
def test_the_other_kinds_of_scope_do_not_change_it_either(digits, workers, how):
    validate = make_validation(digits, workers)
    scoped = (seeded(3) if how == "decorated" else RNGStream(3))(validate)
    with rng_scope(0):
        without = train(digits)
    with rng_scope(0):
        interrupted = train(digits, scoped)
    assert same_bits(without, interrupted)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_validation_without_a_scope_changes_training(digits, workers):
    """The comparison above can fail, even if all that draws is the loader."""
    for validate in (
        make_validation(digits, workers),
        lambda model: [0 for _ in DataLoader(TensorDataset(*digits), num_workers=workers)],
    ):
        seed_by_hand(0)
        without = train(digits)
        seed_by_hand(0)
        assert not same_bits(without, train(digits, validate))


def test_a_seeded_validation_is_the_same_each_time(digits):
    model = make_model()
    validate = make_validation(digits, workers=2)
    results = []
    for _ in range(2):
        with rng_scope(11):
            results.append(validate(model))
    assert results[0] == results[1]
