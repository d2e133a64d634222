#!/usr/bin/env bash
# The Quick Start on a fresh clone: install what is missing, build, run examples/echo.py.
# PYTHON=... chooses the interpreter; arguments go to the example.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../tests/environment.sh"

choose_python
install_debian_packages cxx pkg-config liburing
make_venv
build_uringloop
say "examples/echo.py"
# With the warning that Python hides by default: whatever is left unclosed would be told.
exec "$venv_python" -W default::ResourceWarning examples/echo.py "$@"
