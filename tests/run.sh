#!/usr/bin/env bash
# The tests on a fresh clone: install what is missing, build, run pytest.
# PYTHON=... chooses the interpreter. Arguments go to pytest: with files among them (tests/test_x.py) only those
# run, one after the other; otherwise all, on all cores (-n 0: one after the other, -n 4: on four).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

choose_python
install_debian_packages cxx pkg-config liburing doctest strace testsuite
make_venv
build_uringloop
install_requirements test
say "tests"
parallel=yes
previous=
for argument in "$@"; do
    # A file, a directory, or a test in one.
    [ ! -e "${argument%%::*}" ] || parallel=
    case $previous$argument in -n0 | --numprocesses0 | --numprocesses=0) parallel= ;; esac
    previous=$argument
done
# No exec: the first process of a container would have to reap what the tests leave, and pytest does not.
if [ -z "$parallel" ]; then
    "$venv_python" -m pytest "$@"
    exit
fi
status=0
"$venv_python" -m pytest -n logical --dist worksteal "$@" || status=$?
say "tests that want the machine for themselves"
# 5: -k has left none of them.
URINGLOOP_ALONE=1 "$venv_python" -m pytest "$@" -n 0 || [ $? = 5 ] || status=1
exit $status
