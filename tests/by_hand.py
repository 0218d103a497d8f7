"""What the libraries do by themselves: the tests compare rngscope with this.

Nothing here calls rngscope, and nothing reads states but through public calls. A library is
imported only by the function that needs it.
"""

import importlib.util
import random
import sys

_MODULES = {"python": "random", "numpy": "numpy", "torch": "torch"}

#: The sources that this environment has, accelerators aside.
NAMES = [name for name, module in _MODULES.items() if importlib.util.find_spec(module)]


def load_libraries():
    """Import all of them: what is not imported has no state to compare."""
    for name in NAMES:
        importlib.import_module("numpy.random" if name == "numpy" else _MODULES[name])


def words(seed):
    """Return what NumPy takes for a seed."""
    return seed if seed < 2**32 else [seed & 0xFFFFFFFF, seed >> 32]


def seed_library(name, seed):
    """Seed the global RNG as its own users do."""
    if name == "python":
        random.seed(seed)
    elif name == "numpy":
        import numpy

        numpy.random.seed(words(seed))
    else:
        import torch

        torch.manual_seed(seed)


def generator(name, seed):
    """Return a generator of one's own, which draws what the seeded library draws."""
    if name == "python":
        return random.Random(seed)
    if name == "numpy":
        import numpy

        return numpy.random.RandomState(words(seed))
    import torch

    return torch.Generator().manual_seed(seed)


def draw(name, own=None):
    """Draw uniforms, integers, a shuffle and one half of a Gaussian pair, as plain values."""
    if name == "python":
        rng = own or random
        return [rng.random(), rng.gauss(0, 1), rng.randrange(10**9), rng.sample(range(9), 9)]
    if name == "numpy":
        import numpy

        rng = own or numpy.random
        return [
            rng.random_sample(),
            rng.standard_normal(),
            rng.randint(0, 10**9),
            rng.permutation(9).tolist(),
        ]
    import torch

    return [
        torch.rand(2, generator=own).tolist(),
        torch.randn(1, generator=own).tolist(),
        torch.randint(0, 10**9, (2,), generator=own).tolist(),
        torch.randperm(9, generator=own).tolist(),
    ]


def expected(name, seed, times=1):
    """Return what ``times`` draws after seeding are; no global RNG moves."""
    own = generator(name, seed)
    return [draw(name, own) for _ in range(times)]


def public_states():
    """Return the exact state of every source whose library is imported, by name."""
    states = {"python": random.getstate()}
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        bit_generator = numpy_random.get_bit_generator()
        states["numpy"] = (bit_generator, as_bytes(numpy_random.get_state(legacy=False)))
    torch = sys.modules.get("torch")
    if torch is not None:
        state = torch.default_generator.get_state()
        seed = torch.default_generator.initial_seed()
        states["torch"] = (seed, state.numpy().tobytes())
    return states


def as_bytes(value):
    """Return a state with its arrays as bytes, so that == compares all of it."""
    if isinstance(value, dict):
        return {key: as_bytes(item) for key, item in value.items()}
    return value.tobytes() if hasattr(value, "tobytes") else value


def cache_gaussians():
    """Give every source a state in which the second half of a Gaussian pair is cached."""
    random.seed(97)
    random.gauss(0, 1)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(98)
        numpy_random.standard_normal()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.manual_seed(99)
        torch.randn(1)
