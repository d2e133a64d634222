#!/usr/bin/env bash
# All tests on a fresh clone: install what is missing, build, run pytest.
# PYTHON=... chooses the interpreter; arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

choose_python
install_debian_packages cxx pkg-config liburing doctest strace
make_venv
say "building uringloop, which takes a minute or two"
"$venv_python" -m pip install --quiet --disable-pip-version-check --editable '.[test]'
say "tests"
# No exec: the first process of a container would have to reap what the tests leave, and pytest does not.
"$venv_python" -m pytest tests "$@"
