"""A share of random_loops.py; by hand it runs as many as one likes."""

import pytest

import random_loops

PROGRAMS = 200


@pytest.mark.parametrize("first", range(1, PROGRAMS + 1, 50))
def test_random_programs_lose_nothing(first):
    for seed in range(first, first + 50):
        report = random_loops.run(seed)
        assert report is None, f"seed {seed}: {report}"


def test_failure_is_reported(monkeypatch):
    """That bytes are looked at: a program that is told a wrong pattern fails."""
    monkeypatch.setattr(random_loops.Line, "pattern", lambda line, direction, start, size: bytes([start % 251]) * size)
    right = random_loops.Program.check_arrived

    def check_arrived(program, line):
        line.arrived[:1] = b"?"
        right(program, line)

    monkeypatch.setattr(random_loops.Program, "check_arrived", check_arrived)
    assert "a wrong byte arrived" in random_loops.run(1)
