"""Layers that are built alike and called alike are run once; the nodes of the first are copied for the others.

Only modules in a ModuleList, Sequential or ModuleDict with a sibling of the same class are considered, the outermost
first. Whatever a layer does that is not understood makes it be run in full.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from ._torch_private import has_global_hooks
from .effects import CallInputs, NotRepeatable
from .fingerprint import fingerprint
from .replay import Before, Replay, Template
from .watch import watched

if TYPE_CHECKING:
    from .recorder import Recorder

MAX_TEMPLATES = 8
"""After as many layers built alike that were not called alike, the next ones are only run."""

Call = Callable[..., Any]


class Leak(BaseException):
    """A tensor from inside a layer that was copied is used outside of it, by a way that is not followed.

    `built` is the fingerprint of such layers, where it is known. Not an Exception, so that no handler in the user's
    model takes it for one of its own.
    """

    def __init__(self, built: Hashable | None = None) -> None:
        super().__init__()
        self.built = built


class Repeats:
    """Decides, for each module that is called, whether to run it or to copy an earlier one."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._templates: dict[Hashable, list[tuple[list[Hashable], Template]]] = {}
        self._tries: dict[Hashable, int] = {}
        self._sealed: dict[int, tuple[Template, Node]] = {}
        self._enabled = not has_global_hooks()

    def call(self, call: Call, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `module`, or copy what an earlier module built and called alike did."""
        place = self._recorder.names.places.get(id(module))
        if place is None or not self._enabled:
            return call(module, *args, **kwargs)
        built = fingerprint(module, place.index, place.count)
        if built is None or not self._wanted(built) or self._tries.get(built, 0) >= MAX_TEMPLATES:
            return call(module, *args, **kwargs)
        with self._recorder.paused():
            inputs = CallInputs(place.index, args, kwargs)
            signature = self._signature(inputs)
            for known, template in self._templates.get(built, ()):
                if not template.dead and known == signature:
                    return self._copy(template, module, inputs)
            outer, entered = inputs, self._enter(inputs, args, kwargs)
            if entered is not None:
                inputs, args, kwargs = entered
                before = Before(self._recorder, module, inputs)
        if entered is None:
            return call(module, *args, **kwargs)
        with watched(module, place.index) as watch:
            result = call(module, *args, **kwargs)
        self._tries[built] = self._tries.get(built, 0) + 1
        with self._recorder.paused():
            try:
                if not inputs.unchanged(args, kwargs):
                    raise NotRepeatable("it changed a list or dict that was passed in")
                if self._recorder.values.asked != before.asked:
                    raise NotRepeatable("it asked for the value of a tensor")
                if fingerprint(module, place.index, place.count) != built:
                    raise NotRepeatable("it changed attributes of its own")
                if watch.used:
                    raise NotRepeatable("it computes with its index")
                template = Template(self._recorder, module, inputs, before, result)
                if watch.has_index and template.picks(place.index):
                    raise NotRepeatable("it may take its part of a tensor for all layers")
            except NotRepeatable:
                return self._refuse(built, result)
            self._templates.setdefault(built, []).append((signature, template))
            self._seal(template)
            return self._leave(template, built, outer, result)

    def _wanted(self, built: Hashable) -> bool:
        """Whether layers built like this may be copied."""
        return True

    def _copy(self, template: Template, module: torch.nn.Module, inputs: CallInputs) -> Any:
        return Replay(template, module, inputs).run()

    def _enter(
        self, inputs: CallInputs, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[CallInputs, tuple[Any, ...], dict[str, Any]] | None:
        """What a layer that may become a template is run with; None if it must not."""
        return inputs, args, kwargs

    def _leave(self, template: Template, built: Hashable, outer: CallInputs, result: Any) -> Any:
        """What a new template's own call returns."""
        return result

    def _refuse(self, built: Hashable, result: Any) -> Any:
        """What the call of a layer returns that cannot be a template."""
        return result

    def _signature(self, inputs: CallInputs) -> list[Hashable]:
        """Everything about a call that could make it take another path: shapes, aliasing, values, modes."""
        found: list[Hashable] = [inputs.spec, *inputs.facts]
        found += (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
        first: dict[int, int] = {}
        storages: dict[int, int] = {}
        for tensor in inputs.tensors:
            twin = self._recorder.twins.of(tensor)
            number = self._recorder.storage_number(tensor)
            found.append((tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.requires_grad))
            found += (first.setdefault(id(twin), len(first)), storages.setdefault(number, len(storages)), tensor.device)
        return found

    def _seal(self, template: Template) -> None:
        for tensor, node in template.made_inside().items():
            if self._recorder.unbind(tensor) is not None:
                self._sealed[tensor] = (template, node)

    def unseal(self, tensor: torch.Tensor) -> Node | None:
        """The node of a tensor from inside a template, which is then no template any more; None for any other."""
        found = self._sealed.pop(id(tensor), None)
        if found is None:
            return None
        template, node = found
        if template.replays:
            raise Leak
        template.dead = True
        self._recorder.bind(tensor, node)
        return node
