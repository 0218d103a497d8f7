"""The list of sources. A new library is one new file here and one line in ``SOURCES``."""

from __future__ import annotations

from rngscope.sources.accelerators import AcceleratorSource
from rngscope.sources.backends import BACKENDS
from rngscope.sources.determinism import DeterminismSource
from rngscope.sources.numpy import NumpySource
from rngscope.sources.python import PythonSource
from rngscope.sources.torch import TorchSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rngscope.sources.cell import Source

#: All sources. Accelerators first: they alone refuse an entry, and then nothing is touched.
SOURCES: tuple[Source, ...] = (
    *map(AcceleratorSource, BACKENDS),
    PythonSource(),
    NumpySource(),
    TorchSource(),
)

#: The switch of ``deterministic=True``.
DETERMINISM = DeterminismSource()
