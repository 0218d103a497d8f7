"""Keep ``torch.compile`` out of scopes."""

from __future__ import annotations

from rngscope import _details

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def keep_out_of_graphs(function: Any) -> Any:
    """Have ``torch.compile`` break the graph here, which needs no import of torch.

    TorchDynamo must not trace these: it would draw ``numpy.random`` from torch. With
    ``fullgraph=True`` its error names the reason.
    """
    setattr(function, _details.KEEP_OUT_OF_GRAPHS.name, True)
    setattr(
        function,
        _details.KEEP_OUT_OF_GRAPHS_REASON.name,
        "an RNG scope cannot be part of a graph: without fullgraph=True the graph breaks here; "
        "otherwise enter the scope around the call of the compiled function",
    )
    return function
