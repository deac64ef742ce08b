"""Programs that are graphs already (`fx.GraphModule`, `ExportedProgram`), run node by node for the recorder."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ..errors import InputError
from ._torch_private import active_handler, is_pytree_graph
from .names import stack_path
from .recorder import Recorder


class NodeByNode(fx.Interpreter):
    """Runs a graph; what each node does is recorded on the path in its `module_path` or `nn_module_stack`."""

    def run_node(self, n: fx.Node) -> Any:
        """Run one node within its module path."""
        recorder = active_handler()
        path = n.meta.get("module_path") or stack_path(n)
        if path is None or not isinstance(recorder, Recorder):
            return super().run_node(n)
        with recorder.at(path):
            return super().run_node(n)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An attribute; the graph of a region (`no_grad`, `autocast`) is run node by node too."""
        found = super().get_attr(target, args, kwargs)
        return as_callable(found) if isinstance(found, fx.GraphModule) and _is_region(self.module, target) else found


def _is_region(module: Any, target: str) -> bool:
    users = [user for n in module.graph.find_nodes(op="get_attr") if n.target == target for user in n.users]
    return all(str(user.target).startswith("wrap_with") for user in users)


def as_callable(program: fx.GraphModule) -> Callable[..., Any]:
    """A function of a graph module's arguments that runs it node by node."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if is_pytree_graph(program.graph):
            return NodeByNode(program).run(*pytree.tree_leaves((args, kwargs)), enable_io_processing=False)
        return NodeByNode(program).run(*_in_order(program, args, kwargs), enable_io_processing=False)

    return run


def _in_order(program: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments of a graph module in the order of its placeholders, defaults filled in."""
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    names = [str(node.target) for node in nodes]
    if any(name.startswith("*") for name in names):
        bound = inspect.signature(program.forward).bind(*args, **kwargs)
        return list(bound.arguments.values())
    unknown = [name for name in kwargs if name not in names[len(args) :]]
    missing = [n.target for n in nodes[len(args) :] if n.target not in kwargs and not n.args]
    if unknown or missing or len(args) > len(nodes):
        problem = f"{unknown[0]!r} is not among them" if unknown else f"{missing[0]!r} is missing" if missing else ""
        raise InputError(
            f"this GraphModule takes {len(nodes)} inputs ({', '.join(names)}), found {len(args)} positional"
            f"{f' and {len(kwargs)} by name' if kwargs else ''}{f'; {problem}' if problem else ''}"
        )
    return [*args, *[kwargs.get(name, *node.args) for name, node in zip(names, nodes, strict=True)][len(args) :]]


def exported(program: ExportedProgram, args: Any, kwargs: Any) -> tuple[fx.GraphModule, tuple[Any, ...]]:
    """The module of an exported program and the flat tuple of its inputs, which are its example inputs by default."""
    if args is None and kwargs is None:
        if program.example_inputs is None:
            raise InputError("this ExportedProgram keeps no example inputs; give args and kwargs")
        args, kwargs = program.example_inputs
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args or ())
    flat, spec = pytree.tree_flatten((args, dict(kwargs or {})))
    wanted = program.call_spec.in_spec
    if wanted is not None and spec != wanted:
        names = [n.target for n in program.graph.nodes if n.op == "placeholder"][-wanted.num_leaves :]
        raise InputError(
            f"this ExportedProgram was exported for {wanted.num_leaves} inputs ({', '.join(map(str, names))}) and got "
            f"{spec.num_leaves} in another arrangement; give args and kwargs as they were given to torch.export"
        )
    module = program.module(check_guards=False)
    return module, tuple(flat)


def title(program: ExportedProgram) -> str:
    """The class of the module that was exported, for the report."""
    for node in program.graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            if not path:
                return str(kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]
    return "ExportedProgram"
