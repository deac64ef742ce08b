"""A short name for a captured graph: equal graphs have equal ones, whatever the values of the weights."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def fingerprint(graph: fx.GraphModule) -> str:
    """First 16 hex digits of the SHA-256 over every node: operator, arguments, module path.

    Of what the graph takes, inputs and parameters, also the shape and dtype.
    """
    digest = hashlib.sha256()
    for node in graph.graph.nodes:
        known = (node.op, str(node.target), node.args, node.kwargs, node.meta.get("module_path", ""))
        text = _ADDRESS.sub("", repr(known))  # of arguments that are objects, their addresses
        digest.update(f"{text} {_shape(node)}\n".encode())
    return digest.hexdigest()[:16]


def _shape(node: fx.Node) -> str:
    if node.op not in ("placeholder", "get_attr"):  # what the others give follows from these
        return ""
    value: Any = node.meta.get("val")
    return f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
