"""Files of reports are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from result_factory import result
from torch_regflat.errors import ResultError
from torch_regflat.report.files import check_writable, load, save, write


def test_write_and_replace(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    write(target, "one")
    write(target, "two")
    assert target.read_text() == "two"
    assert os.listdir(tmp_path) == ["run.json"]


def test_mode_is_kept_and_follows_the_umask(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    old = os.umask(0o027)
    try:
        write(target, "one")
    finally:
        os.umask(old)
    assert target.stat().st_mode & 0o777 == 0o640
    target.chmod(0o600)
    write(target, "two")
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


def test_special_files_are_written_to_and_not_replaced() -> None:
    check_writable("/dev/null")
    write("/dev/null", "gone")
    assert not Path("/dev/null").is_file()


def test_check_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "run.json")
    assert os.listdir(tmp_path) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "run.json"
    write(target, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ResultError, match="No space left on device"):
        write(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="it is a directory; name a file"):
        check_writable(tmp_path)
    with pytest.raises(ResultError, match=r"there is no directory .*nowhere; make it first"):
        check_writable(tmp_path / "nowhere" / "run.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="there is no directory"):
        check_writable(tmp_path / "file" / "run.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_places(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    target.write_text("old")
    target.chmod(0o400)
    with pytest.raises(ResultError, match="the file is read-only"):
        check_writable(target)
    tmp_path.chmod(0o500)
    with pytest.raises(ResultError, match="Permission denied"):
        check_writable(tmp_path / "new.json")
    tmp_path.chmod(0o700)


def test_save_and_load(tmp_path: Path) -> None:
    save(result(), tmp_path / "run.json")
    assert load(tmp_path / "run.json") == result()
    save(result(), tmp_path / "run.csv")
    assert (tmp_path / "run.csv").read_text().startswith("model,phase,chip,")
    save(result(), str(tmp_path / "run.txt"))
    assert "side by side" in (tmp_path / "run.txt").read_text()


def test_names_and_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"cannot save as run.yaml: the name must end in one of .json, .csv, .txt"):
        save(result(), "run.yaml")
    with pytest.raises(ResultError, match="No such file or directory"):
        load(tmp_path / "gone.json")
    (tmp_path / "run.csv").write_text("a,b")
    with pytest.raises(ResultError, match="run.csv is not JSON"):
        load(tmp_path / "run.csv")


def test_a_compressed_profile_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "run.json.gz"
    save(result(), path)
    assert path.read_bytes().startswith(b"\x1f\x8b")
    assert load(path) == result()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ResultError, match="run.json.gz is cut short or damaged"):
        load(path)


def test_a_report_is_saved_by_the_ending_of_its_name(tmp_path: Path) -> None:
    save(result(), tmp_path / "run.html")
    save(result(), tmp_path / "run.trace.json")
    assert (tmp_path / "run.html").read_text().startswith("<!doctype html>")
    assert '"traceEvents"' in (tmp_path / "run.trace.json").read_text()
    with pytest.raises(ResultError, match="must end in one of .json, .csv, .txt, .html, .trace.json; .json keeps all"):
        save(result(), tmp_path / "run.xml")
    assert sorted(os.listdir(tmp_path)) == ["run.html", "run.trace.json"]
