"""Find, load, list and describe chip files: those that ship, those on `REGFLAT_CHIP_PATH`, and any path."""

from __future__ import annotations

import functools
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from .. import units
from ..errors import ChipError, near
from .chip import Chip
from .quantity import Quantity

CHIP_PATH = "REGFLAT_CHIP_PATH"
_SHIPPED = Path(__file__).parent / "chips"


def names() -> list[str]:
    """Names of all chips that `load` finds: shipped ones, then those in the folders of `REGFLAT_CHIP_PATH`."""
    shipped = shipped_names()
    private = {path.stem for folder in _folders() for path in folder.glob("*.toml")} - set(shipped)
    return shipped + sorted(private)


def shipped_names() -> list[str]:
    """Names of the chips that ship."""
    return sorted(path.stem for path in _SHIPPED.glob("*.toml"))


def load(name_or_path: str | os.PathLike[str] | Chip) -> Chip:
    """Load a chip by name (`h100-sxm`), alias (`h100`) or path (`my/chip.toml`). A `Chip` passes through.

    `h100-sxm:flat` is the register-flat twin of a chip (`Chip.flatten`); `:flat-power`, `:flat+registers` and
    `:flat+64MiB` are it with options.

    A private chip on `REGFLAT_CHIP_PATH` comes before a shipped one of the same name. Aliases are other spellings, as
    in published tables or from `torch.cuda.get_device_name()`: case does not matter in them, and spaces and underscores
    are hyphens. Raises `ChipError` for an unknown name, and for an alias that several chips have.
    """
    if isinstance(name_or_path, Chip):
        return name_or_path
    base, _, variant = str(name_or_path).rpartition(":")
    if base and variant.startswith("flat"):
        return _flat(load(base), variant)
    path = _find(name_or_path)
    stat = path.stat()
    return _read(path, stat.st_mtime_ns, stat.st_size)


def _flat(chip: Chip, variant: str) -> Chip:
    from .flatten import parse

    return chip.flatten(**parse(variant))


def shipped(name: str) -> Chip | None:
    """The chip that ships under this name, whatever `REGFLAT_CHIP_PATH` holds; None if there is none."""
    path = _SHIPPED / f"{name}.toml"
    return load(path) if path.is_file() else None


def _find(name_or_path: str | os.PathLike[str]) -> Path:
    text = os.fspath(name_or_path)
    if text.endswith(".toml") or os.sep in text or isinstance(name_or_path, os.PathLike):
        path = Path(text).expanduser()
        if path.is_file():
            return path
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise ChipError(f"chip file {text}: {what}; give the path of a .toml file or one of {', '.join(names())}")
    name = _spelling(text)
    for folder in (*_folders(), _SHIPPED):
        for stem in (text, name):
            if (folder / f"{stem}.toml").is_file():
                return folder / f"{stem}.toml"
    aliases = _aliases()
    found = aliases.get(name, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise ChipError(f"chip {text!r} may be {' or '.join(path.stem for path in found)}; give one of these names")
    known = names()
    hint = near(name, [*known, *aliases]) or f"; known are {', '.join(known)}"
    lost = [folder for folder in _listed_folders() if not folder.is_dir()]
    also = f" ({CHIP_PATH} names {lost[0]}, which is not a folder)" if lost else ""
    raise ChipError(f"unknown chip {text!r}{hint}{also}")


def _listed_folders() -> list[Path]:
    return [Path(part).expanduser() for part in os.environ.get(CHIP_PATH, "").split(os.pathsep) if part]


def _folders() -> list[Path]:
    return [folder for folder in _listed_folders() if folder.is_dir()]


def _spelling(text: str) -> str:
    """One form for all spellings of a name: `NVIDIA A100-SXM4-80GB` and `nvidia_a100-sxm4-80gb` are the same."""
    return re.sub(r"[\s_]+", "-", text.strip().lower())


def _aliases() -> dict[str, list[Path]]:
    """The files that claim each alias; those of a private folder hide shipped ones of the same name."""
    files: dict[str, Path] = {}
    for folder in (*_folders(), _SHIPPED):
        for path in sorted(folder.glob("*.toml")):
            files.setdefault(path.stem, path)
    found: dict[str, list[Path]] = {}
    for path in files.values():
        stat = path.stat()
        for alias in _aliases_of(path, stat.st_mtime_ns, stat.st_size):
            found.setdefault(alias, []).append(path)
    return found


@functools.lru_cache(maxsize=256)
def _aliases_of(path: Path, mtime_ns: int, size: int) -> frozenset[str]:
    try:
        listed = read_toml(path).get("aliases")
    except ChipError:  # a broken private file is reported when it is asked for
        return frozenset()
    return frozenset(_spelling(str(alias)) for alias in listed) if isinstance(listed, list) else frozenset()


@functools.lru_cache(maxsize=256)
def _read(path: Path, mtime_ns: int, size: int) -> Chip:
    return Chip.from_dict(read_toml(path), path.name)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; `ChipError` names the file, and the line of a mistake."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ChipError(f"{path.name}: not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise ChipError(f"{path.name}: not a text file; a chip file is TOML in UTF-8") from None
    except OSError as error:
        raise ChipError(f"{path}: cannot be read ({error.strerror})") from None


def summary(chip: Chip) -> dict[str, str]:
    """One row of a listing of chips, formatted for people."""
    from .evidence import evidence_of

    best = max(chip.dtypes, key=lambda d: (d == "bf16", d == "fp16", chip.peak_flops(d)))
    return {
        "name": chip.name,
        "title": chip.title,
        "memory system": chip.memory_system,
        f"peak {best}": units.format_si(chip.peak_flops(best), "FLOP/s"),
        "bandwidth": units.format_si(chip.external.read_bytes_per_s, "B/s"),
        "capacity": units.format_bytes(chip.capacity_bytes),
        "on chip": units.format_bytes(chip.on_chip_bytes, binary=True),
        "power": units.format_si(chip.power.limit.value, "W"),
        "evidence": str(evidence_of(chip)),
    }


def summary_rows() -> list[dict[str, str]]:
    """`summary` of every chip that `names` lists."""
    return [summary(load(name)) for name in names()]


def describe_rows(chip: Chip) -> list[dict[str, str]]:
    """Every number of a chip: field, value with unit, range, kind, and its source written out."""
    return [_row(path, quantity, chip.sources) for path, quantity in chip.quantities()]


def _row(path: str, quantity: Quantity, sources: dict[str, str]) -> dict[str, str]:
    low, high = quantity.given_low, quantity.given_high
    ends = (quantity.given if low is None else low, quantity.given if high is None else high)
    spread = "" if low is None and high is None else f"{ends[0]:g} to {ends[1]:g}"
    return {
        "field": path,
        "value": str(quantity),
        "range": spread,
        "kind": quantity.kind,
        "source": sources.get(quantity.source, quantity.source),
        "note": quantity.note,
    }


def describe(chip: Chip) -> str:
    """A table of every number of a chip with its unit, kind and source key, then the sources written out."""
    from tabulate import tabulate

    from .evidence import evidence_of

    rows = [
        (path, str(q), _row(path, q, {})["range"], q.kind, q.source if q.source in chip.sources else _cut(q.source))
        for path, q in chip.quantities()
    ]
    head = f"{chip.name}: {chip.title} ({chip.memory_system}, {chip.process}, evidence: {evidence_of(chip)})"
    also = f"also known as {', '.join(chip.aliases)}" if chip.aliases else ""
    table = tabulate(rows, headers=("field", "value", "range", "kind", "source"), disable_numparse=True)
    cited = "\n".join(f"  [{key}] {text}" for key, text in chip.sources.items())
    parts = (head, chip.description, also, table, f"Sources\n{cited}" if cited else "")
    return "\n\n".join(part for part in parts if part)


def _cut(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"
