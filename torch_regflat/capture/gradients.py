"""Repeated layers of a training step: the backward of the first is recorded once and copied for the others.

A layer that others may copy is run on inputs cut off from the graph of autograd, and stands in the outer graph as one
autograd node. So does each of its copies. When a backward reaches the first such node, the layer's own backward is
recorded to one side (`Plan`), in terms of the layer's forward nodes, its parameters and the gradients that come in; and
that is copied for every instance, the recorded layer itself included.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from ._torch_distributed import is_dtensor
from ._torch_private import call_function
from .effects import CallInputs, Made, Taken
from .repeats import Call, Leak, Repeats
from .replay import Replay, Template
from .twins import new_storage, on_storage

if TYPE_CHECKING:
    from .training import TrainingRecorder

Gradients = Sequence[torch.Tensor | None]


class GradientRepeats(Repeats):
    """Decides as `Repeats` does, and lets gradients pass through what was copied."""

    def __init__(self, recorder: TrainingRecorder, refused: set[Hashable]) -> None:
        super().__init__(recorder)
        self._refused = refused
        """Fingerprints of layers that were tried in vain in an earlier recording."""
        self._segments: dict[Template, Segment] = {}

    def call(self, call: Call, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `module`, or copy what an earlier module built and called alike did."""
        # A forward that runs again in the backward (gradient checkpointing) has to save what the first one saved.
        # Gradients of DTensors are DTensors, which a copy cannot hand on.
        if self.recorder.phase != "forward" or not module._modules or any(map(is_dtensor, module.parameters())):
            return call(module, *args, **kwargs)
        return super().call(call, module, args, kwargs)

    @property
    def recorder(self) -> TrainingRecorder:
        return self._recorder  # type: ignore[return-value]

    def unseal(self, tensor: torch.Tensor) -> Node | None:
        """The node of a tensor from inside a template: its own backward may use it, anything else may not."""
        found = self._sealed.get(id(tensor))
        if found is None:
            return None
        if self.recorder.phase != "backward":
            raise Leak(self._segments[found[0]].built if found[0] in self._segments else None)
        return found[1]

    def _wanted(self, built: Hashable) -> bool:
        return built not in self._refused

    def _enter(
        self, inputs: CallInputs, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[CallInputs, tuple[Any, ...], dict[str, Any]] | None:
        """The same arguments, with tensors cut off from autograd's graph for those that need gradients."""
        cut = _Cut(self.recorder)
        leaves = [cut(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in inputs.leaves]
        if any(t.requires_grad and id(t) not in cut.inner for t in inputs.tensors):
            return None  # it came in inside an object
        args, kwargs = pytree.tree_unflatten(leaves, inputs.spec)
        entered = CallInputs(inputs.index, args, kwargs)
        entered.cut = [(_position(inputs.tensors, outer), leaf) for outer, leaf in cut.leaves]
        return entered, args, kwargs

    def _leave(self, template: Template, built: Hashable, outer: CallInputs, result: Any) -> Any:
        if any(source.kind == "input" for source, _ in template.rebound) or any(
            _needs_gradient(value) for _, _, value in template.changes
        ):
            raise Leak(built)
        segment = self._segments[template] = Segment(template, built)
        return Original(segment, outer).result()

    def _refuse(self, built: Hashable, result: Any) -> Any:
        raise Leak(built)

    def _copy(self, template: Template, module: torch.nn.Module, inputs: CallInputs) -> Any:
        return Copy(self._segments[template], module, inputs).run()

    def drop_plans(self) -> None:
        """Let go of what was recorded to one side, so that nothing refers to nodes of the graph any more."""
        for segment in self._segments.values():
            for plan in segment.plans.values():
                plan.drop()


def _position(tensors: list[torch.Tensor], tensor: torch.Tensor) -> int:
    return next(i for i, known in enumerate(tensors) if known is tensor)


def _needs_gradient(value: Any) -> bool:
    if isinstance(value, Made):
        return value.like.requires_grad
    return any(_needs_gradient(part) for _, part in getattr(value, "parts", ()))


class _Cut:
    """Makes the tensors that a layer sees in place of those that need gradients."""

    def __init__(self, recorder: TrainingRecorder) -> None:
        self.recorder = recorder
        self.leaves: list[tuple[torch.Tensor, torch.Tensor]] = []
        """The tensor outside, and the leaf of autograd that stands for it inside."""
        self.inner: dict[int, torch.Tensor] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.requires_grad:
            return tensor
        if id(tensor) not in self.inner:
            node = self.recorder.node(tensor)
            twin = self.recorder.twin(tensor)
            leaf = on_storage(twin.untyped_storage(), twin).requires_grad_()
            self.leaves.append((tensor, leaf))
            # A leaf may not be changed in place, what comes out of an operator may.
            self.inner[id(tensor)] = made = _Enter.apply(leaf)  # type: ignore[no-untyped-call]
            self.recorder.bind(made, node)
        return self.inner[id(tensor)]


class _Enter(torch.autograd.Function):
    """The tensor itself, made by an operator."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return on_storage(tensor.untyped_storage(), tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class _Boundary(torch.autograd.Function):
    """A whole layer as one node of autograd."""

    @staticmethod
    def forward(
        ctx: Any, instance: Instance, outputs: list[torch.Tensor], *inputs: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.instance = instance
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[Any, ...]:
        return (None, None, *ctx.instance.backward(gradients))


BOUNDARY = f"{_Boundary.__name__}Backward"
"""What autograd calls its nodes of whole layers."""


class Segment:
    """A template that gradients pass through: the leaves it was run on, its parameters, its results."""

    def __init__(self, template: Template, built: Hashable) -> None:
        self.template, self.built = template, built
        self.recorder: TrainingRecorder = template.recorder  # type: ignore[assignment]
        self.cut: list[tuple[int, torch.Tensor]] = template.inputs.cut
        own: dict[int, int] = {}
        for at, tensor in enumerate(template.own):
            if tensor.requires_grad and tensor.is_leaf:
                own.setdefault(id(tensor), at)
        self.parameters = list(own.values())
        """Positions among the template's own tensors of those that get a gradient."""
        made: dict[int, Made] = {}
        for value in template.result:
            if isinstance(value, Made) and value.like.requires_grad:
                made.setdefault(id(value.like), value)
        self.results = list(made.values())
        self.plans: dict[Hashable, Plan] = {}

    def plan(self, gradients: Gradients) -> Plan:
        """The backward for gradients like these, recorded when it is asked for first."""
        key = self._signature(gradients)
        found = self.plans.get(key)
        if found is None:
            found = self.plans[key] = Plan(self, gradients)
        return found

    def _signature(self, gradients: Gradients) -> Hashable:
        found: list[Hashable] = []
        first: dict[int, int] = {}
        for g in gradients:
            if g is None:
                found.append(None)
            else:
                number = self.recorder.storage_number(g)
                shared = first.setdefault(number, len(first)), first.setdefault(-id(g), len(first))
                found.append((g.shape, g.stride(), g.storage_offset(), g.dtype, shared))
        return tuple(found)


class Instance:
    """One layer in the outer graph of autograd: the recorded one, or a copy of it."""

    segment: Segment
    inputs: CallInputs
    own: list[torch.Tensor]

    def cross(self, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Tie the results to the inputs and parameters in autograd's graph."""
        if not outputs:
            return []
        inputs = [self.inputs.tensors[at] for at, _ in self.segment.cut]
        parameters = [self.own[at] for at in self.segment.parameters]
        self.segment.recorder.mark()
        with torch.enable_grad():
            tied = _Boundary.apply(self, outputs, *inputs, *parameters)  # type: ignore[no-untyped-call]
        return list(tied)

    def backward(self, gradients: Gradients) -> list[torch.Tensor | None]:
        """Gradients of the inputs and parameters, from those of the results."""
        plan = self.segment.plan(gradients)
        with self.segment.recorder.paused():
            return _PlanCopy(plan, self, gradients).run()

    def forward_node(self, node: Node) -> Node | None:
        """What this layer has in place of a node that the template's forward made or used."""
        raise NotImplementedError

    def forward_number(self, number: int) -> int:
        raise NotImplementedError

    def path(self, path: str) -> str:
        raise NotImplementedError

    def build(self, made: Made) -> torch.Tensor:
        raise NotImplementedError


class Original(Instance):
    """The template's own layer."""

    def __init__(self, segment: Segment, outer: CallInputs) -> None:
        self.segment, self.inputs, self.own = segment, outer, segment.template.own

    def result(self) -> Any:
        """What the layer returned, tied to the outer graph of autograd."""
        recorder, template = self.segment.recorder, self.segment.template
        outer = []
        for made in self.segment.results:
            outer.append(on_storage(made.like.untyped_storage(), made.like))
            recorder.bind(outer[-1], made.node)
        tied = {id(m.like): t for m, t in zip(self.segment.results, self.cross(outer), strict=True)}
        leaves: list[Any] = []
        for value in template.result:
            if isinstance(value, Made):
                leaves.append(tied.get(id(value.like), value.like))
            elif isinstance(value, Taken):
                leaves.append((self.inputs.tensors if value.kind == "input" else self.own)[value.at])
            else:
                leaves.append(self.inputs.leaves[value.at] if hasattr(value, "at") else value.value)
        return pytree.tree_unflatten(leaves, template.result_spec)

    def forward_node(self, node: Node) -> Node | None:
        return node

    def forward_number(self, number: int) -> int:
        return number

    def path(self, path: str) -> str:
        return path


class Copy(Replay, Instance):
    """A copy of the template's layer."""

    def __init__(self, segment: Segment, module: torch.nn.Module, inputs: CallInputs) -> None:
        super().__init__(segment.template, module, inputs)
        self.segment = segment

    def run(self) -> Any:
        template = self.template
        template.replays += 1
        for node in template.nodes:
            self.copy(node)
        made = [self.tensor(value) for value in self.segment.results]
        for value, tied in zip(self.segment.results, self.cross(made), strict=True):
            self.made[id(value.like)] = tied
        return self.finish()

    def forward_node(self, node: Node) -> Node | None:
        found = self.nodes.get(node)
        if found is None and node in self.template.sources:
            found = self.outside(node, node.meta["module_path"])
        return found

    def forward_number(self, number: int) -> int:
        return self.number(number)

    def path(self, path: str) -> str:
        return self.paths.get(path) or path


class Plan:
    """The backward of one layer, recorded to one side."""

    def __init__(self, segment: Segment, gradients: Gradients) -> None:
        self.segment = segment
        recorder = segment.recorder
        self.count = recorder.twins.count
        self.own_at = {id(tensor): at for at, tensor in reversed(list(enumerate(segment.template.own)))}
        self.gradient_at: dict[Node, int] = {}
        self.number_at: dict[int, int] = {}
        for at, gradient in enumerate(gradients):
            if gradient is not None:
                self.gradient_at.setdefault(recorder.node(gradient), at)
                self.number_at.setdefault(recorder.storage_number(gradient), at)
        with _aside(recorder) as self.nodes:
            found = self._differentiate(gradients)
        self.inside = set(self.nodes)
        self.writes = {n: recorder.values.forget_writes(n) for n in self.nodes if n in recorder.values.writes}
        self.first: dict[Node, Node] = {}
        """The first copy of each node, which the others repeat."""
        self.results = [None if r is None else self._describe(r) for r in found]

    def _differentiate(self, gradients: Gradients) -> list[torch.Tensor | None]:
        """Run autograd over the template's own graph."""
        segment = self.segment
        wanted = [leaf for _, leaf in segment.cut] + [segment.template.own[at] for at in segment.parameters]
        defined = [(made.like, g) for made, g in zip(segment.results, gradients, strict=True) if g is not None]
        if not wanted or not defined:
            return [None] * len(wanted)
        results, given = [like for like, _ in defined], [g for _, g in defined]
        try:
            return list(torch.autograd.grad(results, wanted, given, retain_graph=True, allow_unused=True))
        except RuntimeError as error:
            if "use_reentrant" in str(error):  # checkpoints of this kind run only in a backward of the whole model
                raise Leak(segment.built) from None
            raise

    def _describe(self, tensor: torch.Tensor) -> tuple[Node, torch.Tensor, int]:
        node = self.segment.recorder.node(tensor)
        if node not in self.inside and node not in self.gradient_at:
            raise Leak(self.segment.built)
        return node, tensor, self.segment.recorder.storage_number(tensor)

    def drop(self) -> None:
        for node in reversed(self.nodes):
            node.args, node.kwargs = (), {}


@contextmanager
def _aside(recorder: TrainingRecorder) -> Iterator[list[Node]]:
    """Within this, operators are recorded into a graph of their own; the list has them afterwards."""
    outer, start = recorder.graph, len(recorder.nodes)
    recorder.graph = Graph()
    nodes: list[Node] = []
    try:
        yield nodes
    finally:
        recorder.graph = outer
        region = recorder.nodes[start:]
        recorder.nodes[start:] = [node for node in region if node.op != "call_function"]
        nodes += [node for node in region if node.op == "call_function"]


class _PlanCopy:
    """Copies a plan's nodes for one instance and the gradients that reached it."""

    def __init__(self, plan: Plan, instance: Instance, gradients: Gradients) -> None:
        self.plan, self.instance, self.gradients = plan, instance, gradients
        self.recorder = plan.segment.recorder
        self.nodes: dict[Node, Node] = {}
        self.numbers: dict[int, int] = {}
        self.storages: dict[int, torch.UntypedStorage] = {}

    def run(self) -> list[torch.Tensor | None]:
        """Append the copies; returns the gradients of inputs and parameters."""
        for node in self.plan.nodes:
            self._copy(node)
        return [None if found is None else self._build(*found) for found in self.plan.results]

    def _copy(self, node: Node) -> None:
        recorder, meta = self.recorder, node.meta
        args = map_arg(node.args, self._resolve)
        kwargs = map_arg(node.kwargs, self._resolve) if node.kwargs else {}
        copied = call_function(recorder.graph, node.target, args, kwargs, node.name)
        copied.meta = {
            "val": meta["val"],
            "module_path": self.instance.path(meta["module_path"]),
            "storage": self._storages(meta["storage"]),
            "phase": meta["phase"],
        }
        if "ranks" in meta:
            copied.meta["ranks"] = meta["ranks"]
        first = self.plan.first.setdefault(node, copied)
        if first is not copied:
            copied.meta["template"] = first.meta.get("template", first)
        recorder.values.order[copied] = len(recorder.nodes)
        recorder.nodes.append(copied)
        self.nodes[node] = copied
        for number in self.plan.writes.get(node, ()):
            recorder.values.note_write(copied, self._number(number))

    def _resolve(self, used: Node) -> Node:
        found = self.nodes.get(used)
        if found is None:
            found = self.nodes[used] = self._outside(used)
        return found

    def _outside(self, used: Node) -> Node:
        at = self.plan.gradient_at.get(used)
        if at is not None:
            return self.recorder.node(self._gradient(at))
        found = self.instance.forward_node(used)
        if found is not None:
            return found
        if used.op != "get_attr":
            raise Leak(self.plan.segment.built)
        tensor = self.recorder.tensor_of[used]
        own = self.plan.own_at.get(id(tensor))
        if own is not None:
            return self.recorder.node(self.instance.own[own])
        return self.recorder.constant(tensor) if used in self.recorder.constants else used

    def _gradient(self, at: int) -> torch.Tensor:
        gradient = self.gradients[at]
        assert gradient is not None
        return gradient

    def _storages(self, storage: Any) -> Any:
        if isinstance(storage, tuple):
            return tuple(map(self._storages, storage))
        return None if storage is None else self._number(storage)

    def _number(self, number: int) -> int:
        """The storage number that takes the place of the plan's."""
        found = self.numbers.get(number)
        if found is None:
            twins, at = self.recorder.twins, self.plan.number_at.get(number)
            if at is not None:
                found = self.recorder.storage_number(self._gradient(at))
            elif number > self.plan.count and number not in twins.outside:
                found = twins.fresh()
            else:
                found = self.instance.forward_number(number)
            self.numbers[number] = found
        return found

    def _build(self, node: Node, like: torch.Tensor, number: int) -> torch.Tensor:
        at = self.plan.gradient_at.get(node)
        if at is not None and self._gradient(at).shape == like.shape:
            return self._gradient(at)
        at = self.plan.number_at.get(number)
        if at is not None:
            storage = self._gradient(at).untyped_storage()
        else:
            storage = self.storages.setdefault(number, new_storage(like.untyped_storage().nbytes()))
        made = on_storage(storage, like)
        self.recorder.twins.assign(made, self._number(number))
        self.recorder.bind(made, self.nodes[node])
        return made
