"""Other people's programs, each on the selector loop and on ours; those that are not installed are skipped.

    pytest tests/ecosystem                  # all; tests/run.sh without arguments takes the quick ones
"""

import pytest

from ecosystem import runner, servers


@pytest.fixture(scope="module")
def running():
    with servers.Servers() as running:
        yield running


def all_of_them(config):
    return any("ecosystem" in argument for argument in config.args)


def pytest_generate_tests(metafunc):
    chosen = [program for program in runner.PROGRAMS.values() if program.quick or all_of_them(metafunc.config)]
    marks = {program: [pytest.mark.timeout(program.timeout + 60)] for program in chosen}
    metafunc.parametrize("program", [pytest.param(program, id=program.name, marks=marks[program]) for program in chosen])
    metafunc.parametrize("loop_name", ["selector", "uringloop"])


def test_program(program, loop_name, running):
    result = runner.run(program, loop_name, running)
    if result.outcome == "skipped":
        pytest.skip(result.reason)
    assert result.outcome == "passed", result.reason
