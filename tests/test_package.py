"""The package itself: its names, what importing it costs, and that no submodule hides a name."""

from __future__ import annotations

import importlib.metadata
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import torch_regflat as regflat

LIGHT = ("Chip", "load_chip", "Result", "RegflatError", "InputError", "ChipError", "ResultError")


def python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", [name for name in regflat.__all__ if name not in LIGHT and name != "__version__"])
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(regflat, name) is getattr(regflat, name)


@pytest.mark.parametrize("name", LIGHT)
def test_names_that_need_no_torch_load_none(name: str) -> None:
    assert python(f"import sys, torch_regflat as r; r.{name}; print('torch' in sys.modules)") == "False\n"


def test_all_and_the_table_agree() -> None:
    assert set(regflat.__all__) == {*regflat._PUBLIC, "__version__"}
    assert set(regflat.__all__) <= set(dir(regflat))


def test_no_submodule_bears_a_public_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(regflat.__path__)}
    assert not modules & set(regflat.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'torch_regflat' has no attribute 'profil'"):
        _ = regflat.profil


def test_import_loads_neither_torch_nor_anything_else_heavy() -> None:
    heavy = {"torch", "numpy", "transformers", "pydantic", "click", "tabulate", "tqdm", "torch_regflat.profiler"}
    loaded = python("import sys, torch_regflat; print(*sys.modules)").split()
    assert not heavy & set(loaded)


@pytest.mark.parametrize(
    "module",
    ["result", "report", "report.text", "report.json_", "report.csv_", "regression.diff", "regression.revision",
     "hardware.library", "cli", "pytest_plugin", "_checking"],
)  # fmt: skip
def test_modules_that_must_not_import_torch(module: str) -> None:
    assert python(f"import sys, torch_regflat.{module}; print('torch' in sys.modules)") == "False\n"


def test_import_adds_under_50_ms() -> None:
    # Processor time rather than the clock's, so that other tests at work on the machine do not count.
    program = "import time; t = time.process_time(); import torch_regflat; print(time.process_time() - t)"
    assert min(float(python(program)) for _ in range(5)) < 0.050


def test_version_is_stated_once() -> None:
    root = Path(__file__).parent.parent
    assert f'version: "{regflat.__version__}"' in (root / "CITATION.cff").read_text()
    assert re.search(rf"^## {re.escape(regflat.__version__)}\b", (root / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_installed_version() -> None:
    try:
        assert importlib.metadata.version("torch_regflat") == regflat.__version__
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("torch_regflat is on the path but not installed")
