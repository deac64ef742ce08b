"""Which share of transformers can be profiled: every config class, shrunk to few layers, captured, lowered and priced.

    python benchmarks/hf_coverage.py coverage.csv            # resumes: types that are in the file are skipped
    python benchmarks/hf_coverage.py coverage.csv --only llama --only mamba
    python benchmarks/hf_coverage.py coverage.csv --redo     # those that failed once more

For each type of CONFIG_MAPPING two models are built on meta from the default configuration: the base model
(MODEL_MAPPING) and the first head that HEADS lists; types without an entry in any mapping get the first model class of
their module that is made for their configuration. Models that generate run prefill and decode, others one forward.
Where the default configuration leaves the id of an image token None, it gets one (`_name_placeholders`).

A row is "ok" when capture, lowering and pricing (one chip) succeed. When they do not, the arbiter runs the same model
without us: first on meta, then in real memory on the CPU. If both fail, the model's own error is the reason. Where it
says that the class, a library or its default configuration is to blame (OWN_FAULT), the row counts as "transformers
itself cannot run it"; else the inputs made here may be to blame, and the row ("inputs") counts against us. Every model
runs in a process of its own, with a time limit.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import faulthandler
import gc
import importlib
import inspect
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LIMIT = 30  # seconds a row
TOKENS = 64
ARBITER = True
MAX_CPU_PARAMETERS = 6_000_000_000
FIELDS = ("type", "model", "phase", "status", "reason", "coverage", "seconds", "inputs")
HEADS = (
    "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "MASKED_LM",
    "IMAGE_CLASSIFICATION", "OBJECT_DETECTION", "UNIVERSAL_SEGMENTATION", "SEMANTIC_SEGMENTATION", "DEPTH_ESTIMATION",
    "CTC", "AUDIO_CLASSIFICATION", "VIDEO_CLASSIFICATION", "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "ZERO_SHOT_OBJECT_DETECTION",
    "TEXT_TO_SPECTROGRAM", "TEXT_TO_WAVEFORM", "TIME_SERIES_PREDICTION", "MASK_GENERATION", "IMAGE_TO_IMAGE",
    "KEYPOINT_DETECTION", "KEYPOINT_MATCHING", "PRETRAINING", "SEQUENCE_CLASSIFICATION", "BACKBONE",
)  # fmt: skip


@dataclass
class Row:
    """One line of the table. status: ok | refused | inputs | transformers | timeout | crash"""

    type: str
    model: str
    phase: str
    status: str
    reason: str = ""
    coverage: float | str = ""
    seconds: float = 0.0
    inputs: str = ""


# --- configurations and model classes ------------------------------------------------------------------------------

_LAYERS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
    "num_decoder_layers", "depth", "num_blocks", "num_encoder_blocks", "encoder_num_layers", "decoder_num_layers",
    "text_num_hidden_layers", "vision_num_hidden_layers", "num_attention_layers",
)  # fmt: skip
_WHOLE = ("neck_hidden_sizes", "backbone_out_indices", "depths", "out_layers", "layers_to_extract")
"""A configuration with one of these picks states of certain layers, so it stays as it is."""
_AT_LEAST = ("attn_layer_period", "expert_layer_period", "sliding_window_pattern", "full_attention_interval")


def shrink(config: Any, few: int = 2) -> Any:
    """Cut the layers of a configuration and of those nested in it; per-layer lists are cut with them."""
    if any(getattr(config, name, None) for name in _WHOLE) or len(getattr(config, "out_indices", None) or ()) > 1:
        return config
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and not name.startswith("_"):
            shrink(value, few)
    counts = {name: value for name in _LAYERS if type(value := getattr(config, name, None)) is int and value > few}
    for name, old in counts.items():
        new = min(
            old, max(few, *(getattr(config, n, 0) or 0 for n in _AT_LEAST if isinstance(getattr(config, n, 0), int)))
        )
        new = max(new, _kinds_prefix(config, old))
        try:
            setattr(config, name, new)
        except Exception:
            continue
        _cut_lists(config, old, new)
    return config


def _kinds_prefix(config: Any, old: int) -> int:
    """As many layers as it takes to see every kind that a per-layer list names, at most 8."""
    need = 0
    for name, value in vars(config).items():
        if (
            isinstance(value, (list, tuple))
            and len(value) == old
            and any(w in name for w in ("layer", "block"))
            and all(isinstance(v, str) for v in value)
        ):
            need = max(need, max(value.index(kind) for kind in set(value)) + 1)
    return min(need, 8)


def _cut_lists(config: Any, old: int, new: int) -> None:
    for name, value in list(vars(config).items()):
        if not isinstance(value, list) or name.startswith("_"):
            continue
        if len(value) == old and old > 4:
            setattr(config, name, value[:new])
        elif (
            value
            and all(type(v) is int for v in value)
            and max(value) <= old
            and ("index" in name or "layer" in name or "idx" in name)
        ):
            setattr(config, name, sorted({min(v, new - 1) if v >= 0 else v for v in value}))


def model_classes(transformers: Any, kind: str, config_class: type) -> list[type]:
    """The base model and the head of a type; without a mapping the model of its own module."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    names: list[str] = []
    for mapping in ("MODEL_MAPPING_NAMES", *(f"MODEL_FOR_{head}_MAPPING_NAMES" for head in HEADS)):
        found = getattr(auto, mapping, {}).get(kind)
        if found is not None:
            name = found if isinstance(found, str) else found[0]
            if name not in names:
                names.append(name)
        if len(names) == 2:
            break
    classes = [cls for name in names if (cls := getattr(transformers, name, None)) is not None]
    return classes or _own_classes(transformers, config_class)


def _own_classes(transformers: Any, config_class: type) -> list[type]:
    module_name = config_class.__module__.replace(".configuration_", ".modeling_")
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        return []
    base = transformers.PreTrainedModel
    found = [
        cls for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, base) and getattr(cls, "config_class", None) is config_class
    ]  # fmt: skip
    return [cls for cls in found if getattr(cls.forward, "__name__", "") != "_forward_unimplemented"][:1]


# --- one model --------------------------------------------------------------------------------------------------------


class Timeout(BaseException):
    pass


def _on_alarm(*_: Any) -> None:
    raise Timeout


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]


def build(cls: type, config: Any, dtype: str = "bfloat16") -> Any:
    import torch

    from torch_regflat.capture.huggingface import build_class

    if (
        cls.__name__.endswith(("LMHeadModel", "ForCausalLM", "Decoder"))
        and getattr(config, "is_decoder", None) is False
    ):
        config.is_decoder = True  # else it is an encoder with a head, without a cache

    _name_placeholders(config)
    # The dtype of today's checkpoints; grouped products of experts exist in no other.
    return build_class(cls, config, getattr(torch, dtype))


def rows_of(kind: str) -> Iterator[Row]:
    """All rows of one config class."""
    import transformers
    from transformers import CONFIG_MAPPING

    started = time.perf_counter()
    try:
        config_class = CONFIG_MAPPING[kind]
        classes = model_classes(transformers, kind, config_class)
    except Exception as error:
        yield Row(kind, "", "", "transformers", one_line(error))
        return
    if not classes:
        yield Row(
            kind, config_class.__name__, "", "transformers", "transformers has no model class for this configuration"
        )
        return
    hopeless = False  # no other way of building it helped an earlier row
    for cls in classes:
        signal.alarm(LIMIT)
        name, started = cls.__name__, time.perf_counter()
        try:
            model, _ = build_model(cls, config_class)
        except Timeout:
            yield Row(kind, name, "", "timeout", "building")
            continue
        except Exception as error:
            yield Row(
                kind, name, "", "transformers", f"build: {one_line(error)}", seconds=time.perf_counter() - started
            )
            continue
        finally:
            signal.alarm(0)
        from torch_regflat.capture.phases import phases_of

        phases = phases_of(model)
        for phase in ("prefill", "decode") if phases[0] == "prefill" else phases[:1]:
            row = run_row(kind, name, model, phase)
            # Some models mix bfloat16 with float32 and run in float32 only; some configurations do not stand shrinking.
            for dtype, few in (("float32", True), ("bfloat16", False), ("float32", False)):
                if row.status not in ("refused", "crash") or hopeless:
                    break
                with contextlib.suppress(Exception):
                    config = config_class()
                    again = run_row(kind, name, build(cls, shrink(config) if few else config, dtype), phase)
                    row = again if again.status == "ok" else row
            hopeless = hopeless or row.status != "ok"
            if row.status != "ok" and ARBITER:
                arbitrate(row, model, phase, cls, config_class)
            yield row


def _name_placeholders(config: Any) -> None:
    """Give the tokens that stand for images and videos an id where the default configuration has None: the last ones.

    The checkpoints name them; a model without them cannot place its own image features.
    """
    text = getattr(config, "text_config", None)
    for back, name in enumerate(("image_token_index", "video_token_index"), start=1):
        if (
            name in vars(config)
            and getattr(config, name) is None
            and isinstance(getattr(text, "vocab_size", None), int)
        ):
            setattr(config, name, text.vocab_size - back)


def build_model(cls: type, config_class: type, dtype: str = "bfloat16") -> tuple[Any, str]:
    try:
        return build(cls, shrink(config_class()), dtype), ""
    except Exception as error:
        try:
            return build(cls, config_class(), dtype), "not shrunk"
        except Exception:
            raise error from None


def lengths(model: Any, phase: str) -> dict[str, int]:
    """The lengths that a model takes: TOKENS, or what it has positions for."""
    from torch_regflat.capture.phases import positions_of

    tokens = min(TOKENS, positions_of(model) or TOKENS)
    if phase == "decode":
        return {"context": tokens - 1}
    return {"seq_len": tokens} if model.main_input_name == "input_ids" else {}


def run_row(kind: str, name: str, model: Any, phase: str) -> Row:
    from torch_regflat import profile_model

    row = Row(kind, name, phase, "ok")
    started = time.perf_counter()
    signal.alarm(LIMIT)
    try:
        made = profile_model(model, phase=phase, chips="h100-sxm", **lengths(model, phase))
        row.coverage = round(made.coverage.modelled_bytes_share, 4)
        row.inputs = made.result.inputs
        if not made.total.latency_s > 0:
            row.status, row.reason = "crash", "no time at all"
    except Timeout:
        row.status, row.reason = "timeout", f"more than {LIMIT} s"
    except Exception as error:
        from torch_regflat.errors import RegflatError

        row.status = "refused" if isinstance(error, RegflatError) else "crash"
        row.reason = one_line(error)
        if row.status == "crash":
            import traceback

            last = traceback.extract_tb(error.__traceback__)[-1]
            row.reason += f" [{last.filename}:{last.lineno}]"
    finally:
        signal.alarm(0)
    row.seconds = round(time.perf_counter() - started, 2)
    return row


OWN_FAULT = re.compile(
    r"missing the required .forward. function|_forward_unimplemented|no cache in the output of the model"
    r"|Config' object has no attribute|can only be called on Attention layers|split_sizes to sum exactly"
    r"|topk\(\): argument 'k' must be int, not NoneType|argument in the config, or it is not set"
    r"|Input language unknown|set a retriever|^build: |has no model class for this configuration"
    r"|requires the \w+ library"
)
"""Errors of transformers, raised without us, that no inputs can help: no forward, no cache, a library that is not
installed, a default configuration that lacks what the model reads."""


def blamed(reason: str) -> str:
    """The status of a row that runs neither with nor without us."""
    return "transformers" if OWN_FAULT.search(reason.split(" || ours:")[0]) else "inputs"


# --- the arbiter: transformers without us -----------------------------------------------------------------------------


def arbitrate(row: Row, model: Any, phase: str, cls: type, config_class: type) -> None:
    """Set the status to "transformers" when the model runs neither on meta nor on the CPU without us."""
    import torch

    from torch_regflat.capture.model_inputs import candidates

    signal.alarm(LIMIT)
    errors: list[str] = []
    try:
        try:
            ways = list(candidates(model, 1, TOKENS))
        except Exception as error:
            row.reason += f" | no inputs: {one_line(error)}"
            return
        with torch.inference_mode():
            for kwargs in ways:
                try:
                    run_plain(
                        model, {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}, phase
                    )
                    row.reason += " | arbiter: runs on meta"
                    return
                except Exception as error:
                    errors.append(one_line(error))
        count = sum(p.numel() for p in model.parameters())
        if count > MAX_CPU_PARAMETERS:
            row.reason += f" | arbiter: not on meta, too large for the CPU ({count / 1e9:.1f} G)"
            return
        skip = importlib.import_module("transformers.initialization").no_init_weights
        with skip():  # memory that was never written is zero, and takes no room
            dtype = torch.float32 if count < 1e9 else torch.bfloat16
            real = cls._from_config(shrink(config_class()), dtype=dtype).eval()  # type: ignore[attr-defined]
        with torch.inference_mode():
            for kwargs in ways:
                made = {k: _real(v, dtype) for k, v in kwargs.items()}
                try:
                    run_plain(real, made, phase)
                    row.reason += f" | arbiter: runs on the CPU with {', '.join(made)}"
                    return
                except Exception as error:
                    errors.append(one_line(error))
        own = next((error for error in errors if OWN_FAULT.search(error)), errors[0])
        row.reason = f"{own} || ours: {row.reason}"
        row.status = blamed(row.reason)
    except Timeout:
        row.reason += " | arbiter: timeout"
    except Exception as error:
        row.reason = f"{one_line(error)} || ours: {row.reason}"
        row.status = blamed(row.reason)
    finally:
        signal.alarm(0)


def run_plain(model: Any, kwargs: dict[str, Any], phase: str) -> None:
    """One forward; for decode also a second one, of one token, with the cache that the first returned."""
    if phase != "decode":
        model(**kwargs)
        return
    output = model(**kwargs, use_cache=True)
    for name in ("past_key_values", "cache_params", "state"):
        cache = getattr(output, name, None)
        if cache is not None:
            break
    else:
        raise ValueError("no cache in the output of the model")
    if "decoder_input_ids" in kwargs:
        model(**{**kwargs, "decoder_input_ids": kwargs["decoder_input_ids"][:, -1:], name: cache}, use_cache=True)
    else:
        model(**{"input_ids": kwargs["input_ids"][:, -1:], name: cache}, use_cache=True)


def _real(value: Any, dtype: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor) or value.device.type != "meta":
        return value
    if value.dtype.is_floating_point:
        return torch.rand(value.shape, dtype=dtype)
    return torch.ones(value.shape, dtype=value.dtype)


# --- the table --------------------------------------------------------------------------------------------------------


def worker(kind: str, out: str) -> None:
    """Run in a process of its own: append rows to `out` as JSON lines."""
    resource.setrlimit(resource.RLIMIT_AS, (20 << 30, 20 << 30))
    signal.signal(signal.SIGALRM, _on_alarm)
    faulthandler.enable()
    gc.enable()
    with open(out, "w") as file:
        for row in rows_of(kind):
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()


def run_forked(kind: str) -> list[Row]:
    """All rows of a type from a forked process; a process that hangs or dies leaves a row that says so."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file, tempfile.NamedTemporaryFile(suffix=".err") as err:
        started = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(err.fileno(), 2)
                os.dup2(err.fileno(), 1)
                worker(kind, file.name)
                os._exit(0)
            except BaseException as error:
                print(one_line(error), flush=True)
                os._exit(1)
        status: int | None = None
        while time.perf_counter() - started < 8 * LIMIT:
            done, code = os.waitpid(pid, os.WNOHANG)
            if done:
                status = code
                break
            time.sleep(0.02)
        else:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        rows = [Row(**json.loads(line)) for line in Path(file.name).read_text().splitlines()]
        if status != 0:
            said = " ".join(Path(err.name).read_text(errors="replace").split())[-300:]
            rows.append(Row(kind, "", "", "timeout" if status is None else "crash", f"process ended: {status} {said}"))
        return rows


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open() as file:
        return [Row(**line) for line in csv.DictReader(file)]


def write(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def verdict(rows: list[Row]) -> str:
    """Of one config class: ok when all its rows that transformers can run are; transformers when it runs none."""
    ours = [row for row in rows if row.status != "transformers"]
    if not ours:
        return "transformers"
    return "ok" if all(row.status == "ok" for row in ours) else "not ok"


def summary(rows: list[Row], types: dict[str, str]) -> str:
    """The share over all config classes, and why what is not covered is not."""
    by_class: dict[str, list[Row]] = collections.defaultdict(list)
    for row in rows:
        if row.status == "transformers":
            row.status = blamed(row.reason)
        if row.type in types:
            by_class[types[row.type]].append(row)
    count = collections.Counter(verdict(found) for found in by_class.values())
    runnable = count["ok"] + count["not ok"]
    bad_inputs = sum(
        {row.status for row in found if row.status not in ("ok", "transformers")} == {"inputs"}
        for found in by_class.values()
    )
    states = collections.Counter(row.status for row in rows)
    lines = [
        f"config classes: {len(set(types.values()))}, tried {len(by_class)}",
        f"  transformers itself cannot run: {count['transformers']}",
        f"  runnable: {runnable}, profiled {count['ok']} = {count['ok'] / max(runnable, 1):.1%}"
        f" (of all classes: {count['ok'] / max(len(by_class), 1):.1%})",
        f"  of the others {bad_inputs} fail only where no inputs made here run in transformers either"
        f" (without these {count['ok'] / max(runnable - bad_inputs, 1):.1%})",
        "rows: " + ", ".join(f"{name} {n}" for name, n in states.most_common()),
    ]
    covered = [float(row.coverage) for row in rows if row.status == "ok" and row.coverage != ""]
    if covered:
        lines.append(
            f"bytes in operators with a formula: mean {sum(covered) / len(covered):.4f}, least {min(covered):.4f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--redo", action="store_true", help="run the types again that are not ok")
    parser.add_argument("--redo-all", action="store_true", help="those that transformers could not run as well")
    parser.add_argument("--show", action="store_true", help="print the rows that are not ok and stop")
    parser.add_argument("--no-arbiter", action="store_true", help="do not run failed models without us")
    arguments = parser.parse_args()
    global ARBITER
    ARBITER = not arguments.no_arbiter
    warnings.filterwarnings("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    rows = read(arguments.table)
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    types = dict(CONFIG_MAPPING_NAMES)
    if arguments.show:
        for row in rows:
            if row.status != "ok":
                print(row.type, row.model, row.phase, row.status, row.reason, sep=" | ")
        print(summary(rows, types))
        return
    again = {
        row.type for row in rows
        if (arguments.redo and row.status not in ("ok", "transformers")) or (arguments.redo_all and row.status != "ok")
    } | {name for name in arguments.only}  # fmt: skip
    done = {row.type for row in rows} - again
    todo = [name for name in (arguments.only or types) if name not in done]
    if (arguments.redo or arguments.redo_all) and not arguments.only:
        todo = [name for name in todo if name in again]
    import torch
    import transformers.modeling_utils  # noqa: F401

    import torch_regflat.capture.huggingface
    import torch_regflat.profiler  # noqa: F401

    torch.set_num_threads(1)
    gc.freeze()
    for number, kind in enumerate(todo):
        started = time.perf_counter()
        found = run_forked(kind)
        rows = [row for row in rows if row.type != kind] + found
        write(arguments.table, rows)
        words = "; ".join(
            f"{r.model} {r.phase} {r.status}" + (f" ({r.reason[:150]})" if r.status != "ok" else "") for r in found
        )
        print(f"[{number + 1}/{len(todo)}] {kind} {time.perf_counter() - started:.1f} s: {words}", flush=True)
    print(summary(rows, types))


if __name__ == "__main__":
    sys.path.insert(0, ".")
    main()
