#!/usr/bin/env bash
# The tests on a fresh clone: install what is missing, build, run pytest.
# PYTHON=... chooses the interpreter. Arguments go to pytest: with files among them (tests/test_x.py) only those
# run, otherwise all.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

choose_python
install_debian_packages cxx pkg-config liburing doctest strace testsuite
make_venv
build_uringloop
install_requirements test
say "tests"
# No exec: the first process of a container would have to reap what the tests leave, and pytest does not.
"$venv_python" -m pytest "$@"
