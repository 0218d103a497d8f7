"""A program that is interrupted at random moments and counts what leaks.

``python interrupted_program.py BODY ROUNDS LONGEST``: the name of one of ``BODIES``, how often it
is interrupted, and after how many seconds at most. Prints how many interrupts left a state
changed or a scope open, and where each of those was raised that no window explains.

The window is CPython's: it may raise between the return of ``__enter__`` and the body, and before
the first line of ``__exit__``, where no Python code can catch it.
"""

import json
import random
import signal
import sys
import warnings

from by_hand import NAMES, cache_gaussians, load_libraries, public_states

from rngscope import _order, rng_scope
from rngscope._order import lives


class Interrupt(BaseException):
    """What a signal handler raises: no Exception."""


def work():
    while True:
        with rng_scope(42):
            for _ in range(4000):
                random.random()


def tight():
    while True:
        with rng_scope(42):
            pass


def tight_without_seed():
    while True:
        with rng_scope():
            pass


def nested():
    while True:
        with rng_scope(1), rng_scope(2, sources=["python"]):
            with rng_scope():
                random.random()


BODIES = {body.__name__: body for body in (work, tight, tight_without_seed, nested)}


def is_in_the_window(frame, body):
    code = frame.f_code
    is_exit = code is rng_scope.__exit__.__code__
    return code is body.__code__ or (is_exit and frame.f_lineno == code.co_firstlineno)


def interrupted(body, rounds, longest):
    """Return the number of leaks, and the places of those that the window does not explain."""
    choose = random.Random(11)
    leaks, unexplained, place = 0, [], None

    def interrupt(signum, frame):
        nonlocal place
        place = frame
        raise Interrupt

    signal.signal(signal.SIGALRM, interrupt)
    for _ in range(rounds):
        cache_gaussians()
        before = public_states()
        try:
            # And again a second later: the interpreter swallows what is raised in a finalizer,
            # as imports have them.
            signal.setitimer(signal.ITIMER_REAL, choose.uniform(20e-6, longest), 1)
            body()
        except Interrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if public_states() != before or lives:
            leaks += 1
            if not is_in_the_window(place, body):
                unexplained.append(f"{place.f_code.co_name}, line {place.f_lineno}")
            del lives[:]
    return leaks, unexplained


def locks_are_free():
    """Tell whether no lock is left behind, neither ours nor one of the libraries."""
    locks = [_order.lock]
    if "torch" in NAMES:
        locks.append(sys.modules["torch"].cuda._initialization_lock)
    if "numpy" in NAMES:
        locks.append(sys.modules["numpy.random"].get_bit_generator().lock)
    # Older NumPys have plain locks, which say it in another word.
    return not any(getattr(lock, "_is_owned", getattr(lock, "locked", bool))() for lock in locks)


if __name__ == "__main__":
    # A scope below one that leaked is left out of order.
    warnings.simplefilter("ignore", RuntimeWarning)
    load_libraries()
    # The first scopes look at the interpreter, for longer than until any interrupt.
    for _ in range(3):
        with rng_scope(42), rng_scope(1), rng_scope(2):
            pass
    found = interrupted(BODIES[sys.argv[1]], int(sys.argv[2]), float(sys.argv[3]))
    assert locks_are_free()
    print(json.dumps(found))
