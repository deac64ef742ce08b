"""A training step as one graph: forward, loss, backward and optimizer, recorded on meta tensors.

The forward runs with autograd on, so its operators arrive as autograd sees them (`t` and `addmm` in place of
`linear`); attention and RMS norm stay whole (`fused`). A backward operator gets the path of the module whose forward
made its autograd node: nodes are numbered as they are made, and the recorder notes at which number each module
begins and ends. `meta["phase"]` is `forward`, `backward`, `optimizer`, or `recompute` for the forward that gradient
checkpointing runs again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from ..errors import CaptureError, InputError, near
from . import state
from ._torch_distributed import is_dtensor_type
from ._torch_private import active_autocast, autograd_node, intercepted, next_sequence_number
from .autocast import casting
from .fused import fused_operators
from .gradients import BOUNDARY, GradientRepeats
from .hints import Hints
from .inputs import Inputs, home_device
from .record import no_collection, work_of
from .recorder import Recorder
from .repeats import Leak
from .replaced import replaced
from .stand_ins import StandIns
from .updates import OPTIMIZERS, Updates

aten = torch.ops.aten
_NO_NUMBER = 1 << 62
"""Accumulating into a parameter's gradient has no number of its own."""

Loss = Callable[[Any], torch.Tensor]
MAX_REFUSED = 8
"""After as many kinds of layers that could not be copied, all are run."""

AUTOCAST: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
}
"""What `autocast` may be."""


def capture_training(
    model: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    optimizer: str | None = "adamw",
    loss: Loss | None = None,
    train_mode: bool = False,
    autocast: str | None = None,
    master_weights: bool = False,
    hints: Hints | None = None,
    repeats: bool = True,
    average_over: str | None = None,
) -> GraphModule:
    """Record forward, backward and optimizer step of `model(*args, **kwargs)` as one fx graph of ATen operators.

    `loss` makes a scalar of what the model returns; without it that is the model's own loss (`.loss`) where there is
    one, else the sum of its floating-point outputs. With `train_mode`, modules are in training mode meanwhile. With
    `autocast` (`bfloat16` or `float16`) forward and loss run as under `torch.autocast`. With `master_weights` the
    optimizer keeps a float32 copy of parameters of fewer bits, and its state in float32. `hints` are as of `capture`.
    `average_over` names a process group whose ranks average their gradients before the update (data parallel).
    The output of the graph is the loss and the gradients of the parameters in order. Nothing of the model is changed.
    """
    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise InputError(
            f"unknown optimizer {optimizer!r}{near(optimizer, OPTIMIZERS) or ';'} it must be one of "
            f"{', '.join(OPTIMIZERS)}, or None"
        )
    if optimizer is None and master_weights:
        raise InputError("master_weights are the optimizer's, and there is no optimizer; name one")
    lowered = _autocast_dtype(autocast)
    if not callable(model):
        raise CaptureError(f"a {type(model).__name__} cannot be captured; pass a module or a function")
    options = _Options(optimizer, loss, train_mode, lowered, master_weights, hints, average_over)
    step = _Step(model, args, kwargs or {}, options)
    refused: set[Hashable] = set()
    while repeats and len(refused) < MAX_REFUSED:
        try:
            return step.record(refused)
        except Leak as leak:
            if leak.built is None or leak.built in refused:
                break
            refused.add(leak.built)
    return step.record(None)


def _autocast_dtype(name: str | None) -> torch.dtype | None:
    if name is None:
        return active_autocast()
    if name not in AUTOCAST:
        raise InputError(f"autocast is {name!r}; it must be one of {', '.join(AUTOCAST)}, or None")
    return AUTOCAST[name]


class TrainingRecorder(Recorder):  # type: ignore[no-untyped-call]
    """A recorder that knows which part of a training step runs and whose backward an operator belongs to."""

    def __init__(self, *args: Any, refused: set[Hashable] | None, **kwargs: Any) -> None:
        self.phase = "forward"
        self.owner = ""
        """Path of the module whose parameter the optimizer updates."""
        self._starts: list[int] = []
        self._paths: list[str] = []
        super().__init__(*args, **kwargs, repeats=False)
        if refused is not None:
            self.repeats = GradientRepeats(self, refused)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if types and any(map(is_dtensor_type, types)):
            return self.sharded(func, args, kwargs or {})
        if func is aten.detach.default and (not self.unwrapping or self.concerns(args, ())):
            return self._alias(args[0])
        if self.phase == "backward" and func in (aten.new_empty_strided.default, aten.copy_.default):
            kept = self._kept_gradient(func, args)
            if kept is not None:
                return kept
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _alias(self, tensor: torch.Tensor) -> torch.Tensor:
        """What autograd makes all the time of tensors that it saves: the same value, not an operator."""
        node = self.node(tensor)
        made = self.twin(tensor).detach()
        self.bind(made, node)
        return made

    def _kept_gradient(self, func: Any, args: Any) -> torch.Tensor | None:
        """A gradient that becomes `.grad` as it is. Torch copies it when others hold it, which here is us."""
        node = autograd_node()
        if node is None or not node.name().endswith("AccumulateGrad"):
            return None
        gradient = args[0]
        if func is aten.new_empty_strided.default:
            same = list(args[1]) == list(gradient.shape) and list(args[2]) == list(gradient.stride())
            return self._alias(gradient) if same else None
        return gradient if self.known(gradient) is self.known(args[1]) else None

    # --- places ----------------------------------------------------------------------------------------------------

    def place(self) -> dict[str, Any]:
        if self.phase == "backward":
            again = torch.is_grad_enabled() and autograd_node() is not None
            path = self.stack[-1][0] if again and len(self.stack) > 1 else self._of_backward()
            return {"module_path": path, "phase": "recompute" if again else "backward"}
        path = self.owner if self.phase == "optimizer" else self.stack[-1][0]
        return {"module_path": path, "phase": self.phase}

    def _of_backward(self) -> str:
        node = autograd_node()
        if node is None:
            return ""
        variable = getattr(node, "variable", None)
        if variable is not None:
            return self.owner_of(variable)
        if node.name().startswith(BOUNDARY):
            # Two gradients are added after a layer's backward: it belongs to what gave the second one.
            return str(self.nodes[-1].meta["module_path"])
        return self.path_at(node._sequence_nr())

    def path_at(self, number: int) -> str:
        """The module that was running when the autograd node of this number was made."""
        at = bisect_right(self._starts, number) - 1
        return self._paths[at] if at >= 0 and number < _NO_NUMBER else ""

    def owner_of(self, parameter: torch.Tensor) -> str:
        """The path of the module that a parameter belongs to."""
        return (self.names.tensor(parameter) or "").rpartition(".")[0]

    def mark(self) -> None:
        """Note that from here on autograd nodes belong to the module on top of the stack."""
        self._starts.append(next_sequence_number())
        self._paths.append(self.stack[-1][0])

    def call_module(
        self, call: Callable[..., Any], module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        def entered(inner: torch.nn.Module, *a: Any, **k: Any) -> Any:
            self.mark()
            return call(inner, *a, **k)

        try:
            return super().call_module(entered, module, args, kwargs)
        finally:
            self.mark()


@dataclass(frozen=True)
class _Options:
    optimizer: str | None
    loss: Loss | None
    train_mode: bool
    autocast: torch.dtype | None
    master_weights: bool
    hints: Hints | None
    average_over: str | None = None


class _Step:
    """One training step to record; leaves the user's objects as they were."""

    def __init__(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: _Options) -> None:
        self.model, self.args, self.kwargs, self.options = model, args, kwargs, options
        owner = model if isinstance(model, torch.nn.Module) else getattr(model, "__self__", None)
        self.root = owner if isinstance(owner, torch.nn.Module) else None

    def record(self, refused: set[Hashable] | None) -> GraphModule:
        """Record the step. Repeated layers are copied but for those with `refused` fingerprints; None: all are run."""
        saved, given, options = state.Saved(), state.Saved(), self.options
        home = home_device(self.root, (self.args, self.kwargs))
        given.state((self.args, self.kwargs))
        name = getattr(self.model, "__name__", type(self.model).__name__)
        try:
            with no_collection(), torch.inference_mode(False), torch.enable_grad():
                stand_ins = StandIns(self.root, saved)
                if options.train_mode and self.root is not None:
                    self.root.train()
                recorder = TrainingRecorder(
                    self.root, name, home, refused=refused, saved=saved, work=work_of, hints=options.hints
                )
                for view, shard in stand_ins.views:
                    recorder.names.also(view, shard)
                args, kwargs = Inputs(recorder, self.model, ()).add(self.args, self.kwargs)
                with casting(options.autocast), replaced(), intercepted(recorder), fused_operators(), recorder:
                    loss = self._run(recorder, args, kwargs)
                    recorder.phase = "optimizer"
                    with torch.no_grad():
                        updates = Updates(recorder, stand_ins.parameters, options.master_weights, options.average_over)
                with torch.no_grad():
                    gradients = updates.record(options.optimizer)
                if isinstance(recorder.repeats, GradientRepeats):
                    recorder.repeats.drop_plans()
                recorder.phase, recorder.owner = "forward", ""
                return stand_ins.put_back(recorder.finish((loss, gradients)))
        finally:
            saved.restore()
            given.restore()

    def _run(self, recorder: TrainingRecorder, args: Any, kwargs: Any) -> torch.Tensor:
        try:
            recorder.mark()
            loss = (self.options.loss or total)(self.model(*args, **kwargs))
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss)
                raise CaptureError(f"the loss of {recorder.name} is {found}; it must be a tensor with one element")
            if not loss.requires_grad:
                raise CaptureError(f"the loss of {recorder.name} depends on no parameter that requires a gradient")
            recorder.phase = "backward"
            loss.backward()  # type: ignore[no-untyped-call]
            return loss
        except CaptureError:
            raise
        except Exception as error:
            where = recorder.where(error)
            raise CaptureError(f"{where}: {recorder.phase}: {type(error).__name__}: {error}") from error


def total(output: Any) -> torch.Tensor:
    """The model's own loss where it gave one, else the sum of its floating-point outputs."""
    own = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    if isinstance(own, torch.Tensor):
        return own
    found = [t for t in pytree.tree_leaves(output) if isinstance(t, torch.Tensor) and t.requires_grad]
    if not found:
        raise CaptureError("the output has no tensor that depends on a parameter, so there is no loss to differentiate")
    sums = [t.sum() for t in found]
    return sums[0] if len(sums) == 1 else torch.stack([s.float() for s in sums]).sum()
