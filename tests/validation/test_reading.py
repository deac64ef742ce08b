"""Files of measured rows: each format is known by its header, and what is no row is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from torch_regflat.errors import InputError
from torch_regflat.validation.reading import read

from . import files


@pytest.mark.parametrize("name", files.FILES)
def test_each_format_is_known_by_its_header(name: str, tmp_path: Path) -> None:
    table = read(files.write(tmp_path, name))
    assert not table.malformed
    assert len(table.rows) == files.FILES[name].count("\n") - 1
    assert all(row.cells[column] is not None for row in table.rows for column in table.header)


def test_values_are_si_and_a_doubtful_number_format_is_taken(tmp_path: Path) -> None:
    rows = {name: read(files.write(tmp_path, name)).rows for name in files.FILES}
    assert rows["gemm"][0].measured == pytest.approx(40e-6)
    assert rows["elementwise"][2].dtype == "fp32"
    assert (rows["gemm_consensus"][0].low, rows["gemm_consensus"][0].high) == pytest.approx((35e-6, 45e-6))
    assert rows["model_trace"][0].measured == pytest.approx(60e-6)
    assert [row.quantity for row in rows["end_to_end"]] == ["latency", "rate"]
    assert rows["power"][0].quantity == "power"


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("gemm", "512,4096,4096,1,40.0", "512,,4096,1,40.0", "column n is ''; it must be a whole number of 1 or more"),
        ("gemm", "40.0", "-3", "column latency_us is '-3'; it must be a positive number"),
        ("gemm", "40.0", "nan", "column latency_us is 'nan'; it must be a positive number"),
        ("gemm", ",bf16,", ",bf61,", "column dtype is 'bf61'; did you mean"),
        ("gemm", ",1,40.0", ",40.0", "7 cells where the header has 8 columns"),
        ("attention", "prefill", "prefil", "column phase is 'prefil'; did you mean prefill?"),
        ("attention", "32,8,128,60.0", "32,5,128,60.0", "heads = 32 is no multiple of kv_heads = 5"),
        ("attention_consensus", "300.0,330.0,400.0", "300.0,200.0,400.0", "must not fall in this order"),
        ("gemm", "512,4096,4096", "512,9999999999,9999999999", "9999999999 x 9999999999 is larger than any memory"),
        ("attention", "1024,1024", "1024,512", "q_len = 1024 is more than kv_len = 512"),
        ("moe", "balanced", "even", "column distribution is 'even'; write balanced, or power_law_ and an exponent"),
        ("moe", "balanced", "power_law_-1", "column distribution is 'power_law_-1'; write balanced, or power_law_"),
        ("moe", "128,1,8,", "128,1,256,", "ep = 256 ranks share num_experts = 128"),
        ("moe", "768,8,128,1,8", "768,8,4,1,8", "topk = 8 is more than num_experts = 4"),
        ("elementwise", "add", "ad", "column op is 'ad'; did you mean add"),
        ("conv", "56,56,64,3,3", "56,56,64,99,3", "a filter of 99 x 3 is larger than the padded image"),
        ("model_trace", '"[[1, 1024, 1280]]"', "[[1", "column input_shapes is '[[1'; it must be shapes, as in"),
        ("end_to_end", "ms,made", "hours,made", "it must be one of us, ms, s, tok/s, W"),
        ("end_to_end", "inference-forward", "inference", "column phase is 'inference'; did you mean"),
        ("power", "avg_power_watts,500.0", "joules,500.0", "column metric is 'joules'; it must be one of"),
    ],
)
def test_what_is_no_row_is_named_and_skipped(name: str, old: str, new: str, words: str, tmp_path: Path) -> None:
    text = files.FILES[name]
    assert old in text
    table = read(files.write(tmp_path, name, text.replace(old, new, 1)))
    assert len(table.rows) == text.count("\n") - 2
    assert len(table.malformed) == 1
    assert f"{name}.csv:2: " in table.malformed[0]
    assert words in table.malformed[0]


@pytest.mark.parametrize("text", ["", "\n", ",,\n"])
def test_an_empty_file_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty; it needs a header line with the columns of one of gemm"):
        read(files.write(tmp_path, "gemm", text))


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert read(files.write(tmp_path, "gemm", files.FILES["gemm"].splitlines()[0])).rows == []


def test_a_foreign_file_is_told_what_the_nearest_format_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read(files.write(tmp_path, "foreign", "gpu,dtype,m,n,k,time\nH100,bf16,1,1,1,1\n"))
    assert "the columns gpu, dtype, m, n, k, time are of no known format" in str(error.value)
    assert "the nearest is gemm, which also needs batch, latency_us" in str(error.value)


def test_a_missing_file_and_a_file_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nowhere.csv: No such file"):
        read(tmp_path / "nowhere.csv")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00gpu")
    with pytest.raises(InputError, match="is not a text file"):
        read(binary)


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    assert len(read(files.write(tmp_path, "gemm", "\ufeff" + files.FILES["gemm"] + "\n\n")).rows) == 3
