"""What ``test_distributed.py`` runs on every rank, under torchrun.

    torchrun --nproc-per-node 4 rank_program.py FOLDER

Each function is a law, stated for one rank; all ranks run them in the same order. What each
rank has to say about each law goes into ``FOLDER``.
"""

import contextlib
import json
import os
import random
import sys
import time
import traceback

from by_hand import cache_gaussians, public_states


def the_ranks_are_in_sync_when_seeded_alike(here):
    """After seed_all(42) on every rank nothing differs; no RNG moves by asking."""
    seed_all(42)
    before = public_states()
    assert_in_sync()
    assert_in_sync(sources=["torch"], timeout=30)
    assert public_states() == before


def a_rank_that_diverges_is_named_on_every_rank(here):
    """One draw on the last rank: every rank gets the same error, with source and rank."""
    import torch

    draws = {"python": random.random, "numpy": np.random.rand, "torch": lambda: torch.rand(1)}
    last = here.count - 1
    for name, draw in draws.items():
        seed_all(42)
        if here.rank == last:
            draw()
        own = RNGState.capture().fingerprints()[name]
        before = public_states()
        if here.count == 1:
            assert_in_sync()
            continue
        message = here.refused(AssertionError, assert_in_sync)
        assert public_states() == before
        assert here.everyone_has(message)
        (line,) = [line for line in message.splitlines() if line.startswith("  ")]
        first, *_, moved = here.gather(own)
        others = "rank 0" if last == 1 else f"ranks 0-{last - 1}"
        assert line == f"  {name}: {first} on {others}; {moved} on rank {last}"
        assert_in_sync(sources=[other for other in draws if other != name])


def a_source_that_only_one_rank_has_is_a_difference(here):
    """An accelerator that has started on one rank only: the others say that it is not there."""
    seed_all(42)
    with simulated_cuda(2, name="xpu") as xpu:
        if here.rank == 0:
            xpu.start()
        if here.count == 1:
            assert_in_sync()
            return
        message = here.refused(AssertionError, assert_in_sync)
        assert here.everyone_has(message)
        assert "xpu: " in message and "not there on rank" in message
        before = public_states()
        message = here.refused(ValueError, sync)
        assert here.everyone_has(message)
        assert "xpu: " in message and "start the same accelerators" in message
        assert public_states() == before


def of_an_accelerator_the_current_device_counts(here):
    """Its state is compared and copied, whatever number it has; the others are left alone."""
    import torch

    with simulated_cuda(2, name="xpu") as xpu:
        xpu.start()
        current, other = here.rank % 2, 1 - here.rank % 2
        xpu.current = current
        seed_all(42)
        torch.xpu.default_generators[other].manual_seed(100 + here.rank)
        assert_in_sync()
        torch.xpu.default_generators[current].manual_seed(200 + here.rank)
        untouched = xpu.states()[other]
        wanted = here.gather(xpu.states()[current].hex())[here.count - 1]
        if here.count > 1:
            assert "xpu: " in here.refused(AssertionError, assert_in_sync)
        sync(src=here.count - 1)
        assert xpu.states()[current].hex() == wanted
        assert xpu.states()[other] == untouched
        assert_in_sync()


def every_rank_takes_the_state_of_one(here):
    """After sync() each source is byte for byte that of src, cached Gaussians included."""
    for src in range(here.count):
        seed_all(rank_seed(7, src))
        cache_gaussians()
        [random.random() for _ in range(here.rank)]
        np.random.rand(here.rank)
        np.random.standard_normal()
        own = comparable(public_states())
        sync(src=src)
        assert comparable(public_states()) == here.gather(own)[src]
        assert_in_sync()
        following = [random.gauss(0, 1), np.random.standard_normal(), torch.randn(1).item()]
        assert here.everyone_has(following)


def a_bit_generator_comes_along(here):
    """Where src draws from another bit generator, all do so after sync()."""
    last = here.count - 1
    with rng_scope():
        if here.rank == last:
            np.random.set_bit_generator(np.random.PCG64(3))
        sync(src=last)
        drawn = np.random.rand(3).tolist()
    assert drawn == np.random.RandomState(np.random.PCG64(3)).rand(3).tolist()


def a_bit_generator_that_has_no_plain_form_is_refused_everywhere(here):
    """One that is not NumPy's own: TypeError on every rank, and nothing moved."""

    class Mine(np.random.PCG64):
        pass

    last = here.count - 1
    with rng_scope():
        if here.rank == last:
            np.random.set_bit_generator(Mine(3))
        before = public_states()
        here.refused(TypeError, lambda: sync(src=last), "not NumPy's own")
        assert public_states() == before


def a_source_rank_that_is_none_is_refused(here):
    """src is checked before anything is sent."""
    before = public_states()
    for src in (-1, here.count, "0"):
        here.refused(ValueError, lambda src=src: sync(src=src), "src must be a rank of the group")
    for timeout in (0, -1, float("nan"), "60", True, None):
        call = lambda timeout=timeout: assert_in_sync(timeout=timeout)  # noqa: E731
        here.refused(ValueError, call, "timeout must be a positive number of seconds")
    assert public_states() == before


def a_group_speaks_for_its_own_ranks(here):
    """Ranks outside are neither asked nor changed, and are named if they call."""
    members = list(range(1, here.count)) or [0]
    group = dist.new_group(members)
    seed_all(42)
    if here.rank == 0 and here.count > 1:
        random.random()
        before = public_states()
        here.refused(ValueError, lambda: assert_in_sync(group=group), "rank 0 is not in this group")
        here.refused(ValueError, lambda: sync(src=1, group=group), "rank 0 is not in this group")
        assert public_states() == before
    else:
        assert_in_sync(group=group)
        if here.count == 4:
            [random.random() for _ in range(here.rank)]
            message = here.refused(AssertionError, lambda: assert_in_sync(group=group))
            assert "on rank 1;" in message and "on rank 3" in message
        here_before = public_states()["python"]
        sync(src=members[0], group=group)
        assert_in_sync(group=group)
        assert here.rank != members[0] or public_states()["python"] == here_before


def each_rank_has_a_seed_of_its_own(here):
    """rank_seed follows from the rank, not from the number of ranks."""
    own = rank_seed(42, "dropout", 3)
    assert own == derive_seed(42, "rank", here.rank, "dropout", 3)
    assert len(set(here.gather(own))) == here.count
    # The variable counts only where there is no group.
    with_variable = os.environ.pop("RANK")
    try:
        assert rank_seed(42, "dropout", 3) == own
    finally:
        os.environ["RANK"] = with_variable


def a_default_device_redirects_nothing(here):
    """Law 9: what is sent stands on the CPU, whatever torch.device says."""
    seed_all(42)
    with torch.device("meta"):
        assert_in_sync()
        random.seed(here.rank)
        sync()
        checkpoint = PerRank(RNGStream(here.rank))
        checkpoint.load_state_dict(checkpoint.state_dict())
    assert random.getstate() == random.Random(0).getstate()


def a_checkpoint_brings_back_the_states_of_every_rank(here):
    """DCP: global RNGs and streams, each rank its own, none de-duplicated away."""
    seed_all(rank_seed(1))
    cache_gaussians()
    np.random.rand(here.rank)
    stream = RNGStream(rank_seed(42, "dropout"))
    with stream:
        torch.rand(3)
        random.gauss(0, 1)
    path = os.path.join(here.folder, f"checkpoint-{here.count}")
    at_save = public_states()
    dcp.save({"rng": PerRank(), "dropout": PerRank(stream)}, checkpoint_id=path)
    assert public_states() == at_save
    with stream:
        following = torch.rand(1).item(), random.gauss(0, 1)
    assert len(set(here.gather(following))) == here.count
    seed_all(5)
    again = RNGStream(1)
    # One that was used has a state of another form, which must not matter.
    with again if here.rank else contextlib.nullcontext():
        pass
    dcp.load({"rng": PerRank(), "dropout": PerRank(again)}, checkpoint_id=path)
    assert public_states() == at_save
    assert again.seed == rank_seed(42, "dropout")
    with again:
        assert (torch.rand(1).item(), random.gauss(0, 1)) == following


def a_checkpoint_of_another_number_of_ranks_is_refused(here):
    """ValueError on every rank, with both numbers and the way out; nothing is touched."""
    path = os.path.join(here.folder, "checkpoint-2")
    if here.count == 2:
        return
    stream = RNGStream(5)
    before, stream_before = public_states(), stream.state_dict()
    for state in ({"rng": PerRank()}, {"dropout": PerRank(stream)}):
        message = here.refused(ValueError, lambda state=state: dcp.load(state, checkpoint_id=path))
        assert f"the RNG states of 2 rank(s), and this job has {here.count};" in message
        assert "derive the seeds anew" in message
    assert public_states() == before and stream.state_dict() == stream_before


def a_damaged_checkpoint_is_refused_on_every_rank(here):
    """What the first rank reads decides, and no rank waits in vain."""
    before = public_states()
    for ranks in (None, 3, "", "[", "{}", "[1]", "[]"):
        held = {"ranks": ranks} if here.rank == 0 else {}
        here.refused(ValueError, lambda held=held: PerRank().load_state_dict(held), "JSON list")
    whole = PerRank().state_dict()
    if here.rank == 0:
        whole["ranks"] = whole["ranks"].replace('position\\\\\\": ', 'position\\\\\\": 7')
        whole["ranks"] = whole["ranks"].replace('position\\": ', 'position\\": 7')
    here.refused(ValueError, lambda: PerRank().load_state_dict(whole), "checksum")
    assert public_states() == before


def a_checkpoint_may_be_one_of_a_group(here):
    """The ranks of a group keep and take theirs, without the others."""
    members = list(range(1, here.count)) or [0]
    group = dist.new_group(members)
    if here.rank in members:
        stream = RNGStream(here.rank)
        saved = PerRank(stream, group=group).state_dict()
        assert bool(saved) == (here.rank == members[0])
        again = RNGStream(9)
        PerRank(again, group=group).load_state_dict(saved)
        assert again.seed == here.rank


def ranks_that_meet_in_different_calls_are_told_so(here):
    """One asks while the others save: each hears which ranks called something else."""
    if here.count == 1:
        return
    call = assert_in_sync if here.rank == 1 else PerRank(RNGStream(42)).state_dict
    others = "rank 1" if here.rank != 1 else "ranks 0, 2-3" if here.count == 4 else "rank 0"
    here.refused(RuntimeError, call, f"at the same time {others} called something else")
    assert_in_sync(sources=[])


def a_rank_that_never_comes_is_a_clear_error_on_those_that_came(here):
    """In time; the group is unusable afterwards, and a new one works."""
    if here.count == 1:
        return
    group = dist.new_group(list(range(here.count)))
    seed_all(42)
    before = public_states()
    if here.rank != 1:
        start = time.monotonic()
        message = here.refused(
            RuntimeError, lambda: assert_in_sync(group=group, timeout=1.5), "rank"
        )
        assert time.monotonic() - start < 15
        # Not each has its own clock run out: who fails first closes its connections.
        assert f"assert_in_sync on rank {here.rank}: not all of ranks 0-" in message
        assert "within 1.5 s" in message and "cannot be used any more" in message
        here.refused(RuntimeError, lambda: assert_in_sync(group=group, timeout=1.5))
    dist.barrier()
    assert_in_sync(group=dist.new_group(list(range(here.count))))
    assert public_states() == before


LAWS = [
    the_ranks_are_in_sync_when_seeded_alike,
    a_rank_that_diverges_is_named_on_every_rank,
    a_source_that_only_one_rank_has_is_a_difference,
    of_an_accelerator_the_current_device_counts,
    every_rank_takes_the_state_of_one,
    a_bit_generator_comes_along,
    a_bit_generator_that_has_no_plain_form_is_refused_everywhere,
    a_source_rank_that_is_none_is_refused,
    a_group_speaks_for_its_own_ranks,
    each_rank_has_a_seed_of_its_own,
    a_default_device_redirects_nothing,
    a_checkpoint_brings_back_the_states_of_every_rank,
    a_checkpoint_of_another_number_of_ranks_is_refused,
    a_damaged_checkpoint_is_refused_on_every_rank,
    a_checkpoint_may_be_one_of_a_group,
    ranks_that_meet_in_different_calls_are_told_so,
    a_rank_that_never_comes_is_a_clear_error_on_those_that_came,
]


class Here:
    """This rank, and what a law needs from the others."""

    def __init__(self, folder):
        self.folder = folder
        self.rank, self.count = dist.get_rank(), dist.get_world_size()

    def gather(self, value):
        values = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def everyone_has(self, value):
        return self.gather(value) == [value] * self.count

    def refused(self, kind, call, text=""):
        """Return the message of the error that a call must raise."""
        try:
            call()
        except kind as error:
            assert type(error) is kind and text in str(error), repr(error)
            return str(error)
        raise AssertionError(f"no {kind.__name__}")

    def say(self, law, text):
        path = os.path.join(self.folder, f"{self.count}-{self.rank}-{law}.json")
        with open(path, "w") as file:
            json.dump(text, file)


def comparable(states):
    """Return states without the bit generator object, which is each rank's own."""
    _, words = states["numpy"]
    return {**states, "numpy": words}


def die(here):
    """The last rank is killed while the others are asked: they say that one was lost."""
    import signal

    # Torchrun ends all ranks as soon as it sees that one is dead.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sync()
    if here.rank == here.count - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    here.refused(RuntimeError, lambda: assert_in_sync(timeout=20), "or one was lost")
    assert time.monotonic() - start < 15
    here.say("die", "ok")
    os._exit(0)


def main(folder, *names):
    here = Here(folder)
    if names == ("die",):
        die(here)
    for law in LAWS:
        said = "ok"
        try:
            law(here)
        except BaseException:
            said = traceback.format_exc()
        here.say(law.__name__, said)
        # Where one rank has failed the others may be anywhere.
        if not here.everyone_has("ok" if said == "ok" else here.rank):
            sys.exit(f"{law.__name__} fails on a rank")
    dist.destroy_process_group()


if __name__ == "__main__":
    from datetime import timedelta

    import numpy as np
    import numpy.random
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from simulated_cuda import simulated_cuda

    from rngscope import RNGState, RNGStream, derive_seed, rng_scope, seed_all
    from rngscope.distributed import PerRank, assert_in_sync, rank_seed, sync

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    main(*sys.argv[1:])
