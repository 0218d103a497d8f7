"""What ranks compare, and the words for where they differ."""

from __future__ import annotations

from rngscope.sources import SOURCES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rngscope._state import RNGState

#: Bytes of a fingerprint; all zero for a source that is not there.
DIGEST = 8
#: Stands for any fingerprint where only presence counts.
_PRESENT = b"\1" * DIGEST
#: How many fingerprints an error lists for a source, and ranges of ranks for a fingerprint.
LISTED = 8


def digests_of(state: RNGState) -> bytes:
    """Return a fingerprint for every kind of source, in the order of ``SOURCES``."""
    fingerprints = state.fingerprints()
    absent = "00" * DIGEST
    return bytes.fromhex("".join(fingerprints.get(source.name, absent) for source in SOURCES))


def presence(digests: bytes) -> bytes:
    """Return digests that say only whether a source is there."""
    return b"".join(_PRESENT if any(digest) else digest for digest in cut(digests))


def cut(data: bytes) -> list[bytes]:
    """Return digests one by one."""
    return [data[start : start + DIGEST] for start in range(0, len(data), DIGEST)]


def differences(digests: list[bytes], ranks: list[int]) -> list[str]:
    """Return a line for each source in which ranks differ; the same on every rank."""
    lines: list[str] = []
    if len(set(digests)) == 1:
        return lines
    for source, column in zip(SOURCES, zip(*map(cut, digests))):
        by_digest: dict[bytes, list[int]] = {}
        for rank, digest in zip(ranks, column):
            by_digest.setdefault(digest, []).append(rank)
        if len(by_digest) > 1:
            # The largest party first: those that differ from it stand behind.
            parties = sorted(by_digest.items(), key=lambda party: (-len(party[1]), party[1]))
            texts = [f"{_say(digest)} on {listed(them)}" for digest, them in parties[:LISTED]]
            if len(parties) > LISTED:
                texts.append(f"{len(parties) - LISTED} more on other ranks")
            lines.append(f"  {source.name}: {'; '.join(texts)}")
    return lines


def _say(digest: bytes) -> str:
    if digest == _PRESENT:
        return "there"
    return digest.hex() if any(digest) else "not there"


def listed(ranks: list[int]) -> str:
    """Return ranks as text, with runs as ranges."""
    runs: list[tuple[int, int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], rank)
        else:
            runs.append((rank, rank))
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:LISTED]]
    if len(runs) > LISTED:
        texts.append("...")
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(texts)}"
