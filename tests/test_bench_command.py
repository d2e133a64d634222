"""`python -m uringloop bench`: it measures what is installed, draws it, and says what is wrong."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import pytest

import uringloop
from blocked import INSTALL_FILTER
from uringloop import __main__, bench

ROOT = pathlib.Path(uringloop.__file__).parents[1]
RESULTS = {
    "echo": {"uringloop": {"cpu_us": 5.0, "rate": 100_000.0, "cpu_us_rounds": [4.0, 6.0]},
             "asyncio": {"cpu_us": 10.0, "rate": 50_000.0, "cpu_us_rounds": [9.0, 32.5]}},
    "streams & more": {"uringloop": {"cpu_us": 0.0, "rate": 0.0, "cpu_us_rounds": [0.0, 0.0]}},
}


def test_bench_runs_every_loop_that_is_installed(tmp_path):
    drawing = tmp_path / "bench.svg"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "uringloop", "bench", "--seconds", "0.05", "--rounds", "1",
         "--svg", drawing], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert bench.installed()[:2] == ["uringloop", "asyncio"]
    for workload in bench.WORKLOADS:
        assert workload in done.stdout
    assert done.stdout.count("messages/s") == len(bench.WORKLOADS) * len(bench.installed())
    assert xml.etree.ElementTree.parse(drawing).getroot().tag.endswith("svg")


def test_bench_as_json(monkeypatch, capsys):
    monkeypatch.setattr(bench, "measure", lambda **keywords: RESULTS)
    assert __main__.main(["bench", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == RESULTS


def test_measure_takes_medians_and_begins_with_each_loop(monkeypatch):
    asked = []

    def measure_one(loop, kind, connections, seconds):
        asked.append(loop)
        return len(asked), 2 * len(asked)

    monkeypatch.setattr(bench, "_measure_one", measure_one)
    monkeypatch.setattr(bench, "WORKLOADS", {"only": ("protocol", 1)})
    results = bench.measure(["uringloop", "asyncio"], rounds=3)
    assert asked == ["uringloop", "asyncio", "asyncio", "uringloop", "uringloop", "asyncio"]
    assert results == {"only": {"uringloop": {"cpu_us": 4, "rate": 8, "cpu_us_rounds": [1, 5]},
                                "asyncio": {"cpu_us": 3, "rate": 6, "cpu_us_rounds": [2, 6]}}}


def test_chart_is_to_scale():
    lines = bench.chart(RESULTS).splitlines()
    assert [line.count("█") for line in lines[1:3]] == [20, 40]
    assert "5.00 µs" in lines[1] and "50,000 messages/s" in lines[2]
    # One round on a busy machine can be thrice the others: the median alone would not show it.
    assert "10.00 µs (9.0 to 32.5)" in lines[2]
    plain = bench.chart(RESULTS, "ascii")
    plain.encode("ascii")
    assert [line.count("#") for line in plain.splitlines()[1:3]] == [20, 40]


def test_svg_is_to_scale_and_escaped():
    root = xml.etree.ElementTree.fromstring(bench.svg(RESULTS))
    bars = [float(shape.get("width")) for shape in root.iter("{http://www.w3.org/2000/svg}rect")
            if shape.get("fill") != "white"]
    assert bars == [200.0, 400.0, 0.0]
    assert "streams & more" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--seconds", "many"], ["--rounds", "0"], ["--rounds", "1.5"]])
def test_bench_refuses_wrong_numbers(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        __main__.main(["bench", *arguments])
    assert ended.value.code == 2


def test_bench_where_io_uring_is_blocked():
    before = INSTALL_FILTER.format(errno=errno.EPERM, first=425, last=427)
    program = f"import os, sys\n{before}\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", program, "-m", "uringloop", "bench", "--seconds", "0.05", "--rounds", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, env=os.environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert "seccomp filter refuses it" in done.stderr.splitlines()[-1]


def test_bench_writes_no_drawing_where_it_cannot(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench, "measure", lambda **keywords: RESULTS)
    assert __main__.main(["bench", "--svg", str(tmp_path / "none" / "file.svg")]) == 1
    assert "No such file" in capsys.readouterr().err
