# Sourced by examples/quickstart.sh, tests/run.sh and .ci/run: what a fresh clone lacks, it gets here.
#
#   choose_python                    sets $python to the newest CPython from 3.12 up that really runs
#   install_debian_packages NEED...  NEED: cxx, pkg-config, liburing, doctest, strace, testsuite ($python's own tests)
#   make_venv                        sets $venv_python: .venv of $python, made anew when it is another's
#   build_uringloop                  builds it in place and installs it into .venv, unless it is there as it would be
#   install_requirements EXTRA       installs into .venv what pyproject.toml names for test or recipes
#
# Nothing is installed or built that is there already: a second run needs no root, no network and no time.
# PYTHON=... names an interpreter (a path, or a name on PATH or in pyenv's versions) and ends the search.

# The project's directory, whatever the current one is.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Both would send a virtual environment's Python to somebody else's packages.
unset PYTHONHOME PYTHONPATH

say() { printf '== %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

can_be_root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# The lists of packages, once a run: a fresh container has none. An update that fails (for the sake of somebody
# else's repository, say) need not keep the packages from being had.
apt_updated=
apt_update() {
    [ -n "$apt_updated" ] || as_root apt-get update -qq || say "apt-get update failed, going on"
    apt_updated=1
}

# Only Debian's package manager is known; elsewhere the names are told.
apt_install() {
    command -v apt-get >/dev/null ||
        die "these Debian packages, or what is the same here, must be installed first: $*"
    can_be_root || die "as root run: apt-get install $*"
    say "apt-get install $*"
    apt_update
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
        die "apt-get install $* failed"
}

has() {
    case $1 in
        cxx) command -v g++ >/dev/null ;;
        pkg-config) command -v pkg-config >/dev/null ;;
        liburing) command -v pkg-config >/dev/null && pkg-config --exists liburing ;;
        doctest) [ -e /usr/include/doctest/doctest.h ] || [ -e /usr/local/include/doctest/doctest.h ] ;;
        strace) command -v strace >/dev/null ;;
        # Any other Python than Debian's own has them, or has no package for them.
        testsuite) [[ $python != /usr/bin/* ]] || "$python" -I -c 'import test.support, test.test_asyncio' 2>/dev/null ;;
    esac
}

install_debian_packages() {
    local need packages=()
    for need in "$@"; do
        has "$need" && continue
        case $need in
            cxx) packages+=(g++ libc6-dev) ;;
            pkg-config | strace) packages+=("$need") ;;
            liburing | doctest) packages+=("$need-dev") ;;
            testsuite) packages+=("lib${python##*/}-testsuite") ;;
        esac
    done
    [ "${#packages[@]}" = 0 ] || apt_install "${packages[@]}"
}

# Run $1 and print "<sort key> <usable> <version> <real path>" when it is a CPython from 3.12 up. A pyenv shim
# fails here, unless pyenv would choose a version for it; inside a virtual environment the answer is
# the interpreter that it was made of. `usable` is 1 when it can make an environment and be compiled for.
describe_python() {
    timeout 20 "$1" -I -c '
import importlib.util, os, sys, sysconfig
if sys.implementation.name != "cpython" or sys.version_info < (3, 12):
    raise SystemExit(1)
usable = (
    importlib.util.find_spec("ensurepip") is not None
    and os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
)
# Neither pre-releases nor free-threaded builds are for a newcomer who did not ask for them.
version = sys.version_info
plain = version.releaselevel == "final" and not sysconfig.get_config_var("Py_GIL_DISABLED")
path = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
print("%d%03d%03d%03d" % (plain, *version[:3]), int(usable), "%d.%d.%d" % version[:3], path)
' 2>/dev/null
}

# Print the candidates, one a line; most of them will not run.
list_pythons() {
    local directory versions=${PYENV_ROOT:-$HOME/.pyenv}/versions
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" || true
        # The shim of that name may only pretend.
        [[ $PYTHON == */* ]] || printf '%s\n' "$versions"/*/bin/"$PYTHON"
        return
    fi
    while IFS= read -r -d : directory; do
        printf '%s\n' "$directory"/python3.[0-9]* "$directory"/python3 "$directory"/python
    done <<<"$PATH:"
    printf '%s\n' "$versions"/*/bin/python3
}

# Print the best candidate's description; nothing when there is none.
find_python() {
    local candidate
    list_pythons | grep -E '/python(3(\.[0-9]+t?)?)?$' | while IFS= read -r candidate; do
        [ -f "$candidate" ] && [ -x "$candidate" ] && describe_python "$candidate" || true
    done | if [ -n "${PYTHON:-}" ]; then
        cat
    else
        # Debian's own can be completed by apt; any other that is not usable is passed over.
        grep -E '^1[0-9]* (1|0 [0-9.]+ /usr/bin/)' || true
    fi | sort -n | tail -n 1
}

choose_python() {
    local found usable
    found=$(find_python) || true
    if [ -z "$found" ] && [ -n "${PYTHON:-}" ]; then
        die "PYTHON=$PYTHON is no CPython from 3.12 up that runs"
    fi
    if [ -z "$found" ] && debian_has_python; then
        apt_install python3 python3-venv python3-dev
        found=$(find_python) || true
    fi
    [ -n "$found" ] || die "there is no Python from 3.12 up here (Debian 12's own is 3.11). pyenv compiles one," \
        "which takes some minutes:"$'\n\n'"    $(pyenv_command)"$'\n\n'"Then run this again. If there is one" \
        "in another place, name it: PYTHON=/path/to/python3"
    read -r _ usable python_version python <<<"$found"
    if [ "$usable" = 0 ]; then
        case $python in
            /usr/bin/*) apt_install "${python##*/}-venv" "${python##*/}-dev" ;;
        esac
        read -r _ usable _ <<<"$(describe_python "$python")"
        [ "$usable" = 1 ] || die "$python lacks ensurepip or Python.h:" \
            "install its venv and development packages, or name another by PYTHON="
    fi
    say "Python $python_version, $python"
}

# Print a command that installs a Python. No step of it runs when the one before has failed; it pipes no
# download into a shell, which would hide that.
pyenv_command() {
    local tools="apt-get update && apt-get install -y make g++ git curl ca-certificates libssl-dev zlib1g-dev"
    tools+=" libbz2-dev liblzma-dev libffi-dev libsqlite3-dev"
    local root=${PYENV_ROOT:-$HOME/.pyenv} clone="git clone --depth 1 https://github.com/pyenv/pyenv"
    if [ "$(id -u)" != 0 ]; then
        if command -v sudo >/dev/null; then tools="sudo sh -c '$tools'"; else tools="su -c '$tools'"; fi
    fi
    printf '%s && ' "$tools"
    [ -x "$root/bin/pyenv" ] || printf '%s %q && ' "$clone" "$root"
    printf '%q install 3.13\n' "$root/bin/pyenv"
}

# Is the python3 that apt would install new enough? (Debian 13's is, Debian 12's is not.)
debian_has_python() {
    command -v apt-get >/dev/null && can_be_root || return 1
    apt_update
    local candidate
    candidate=$(apt-cache policy python3 2>/dev/null | awk '$1 == "Candidate:" {print $2}')
    [ -n "$candidate" ] && [ "$candidate" != "(none)" ] && dpkg --compare-versions "$candidate" ge 3.12
}

# The environment is used by its path: nothing needs to be activated.
make_venv() {
    local have=
    venv_python=.venv/bin/python
    if [ -x "$venv_python" ]; then
        read -r _ _ _ have <<<"$(describe_python "$venv_python")" || true
    fi
    if [ "$have" != "$python" ] || ! "$venv_python" -m pip --version >/dev/null 2>&1; then
        say "making .venv"
        rm -rf .venv
        "$python" -m venv .venv
    fi
}

venv_pip() { "$venv_python" -m pip "$@" --quiet --disable-pip-version-check; }

# Is the uringloop of .venv the one of this checkout?
venv_has_uringloop() {
    "$venv_python" -I -c 'import os, sys, uringloop
sys.exit(os.path.dirname(os.path.realpath(uringloop.__file__)) != os.path.realpath("uringloop"))' 2>/dev/null
}

# Print all that a build is made of, and what it has made: its files in place, which another build may replace.
describe_build() {
    local suffix
    suffix=$("$venv_python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
    "$venv_python" -c 'import sys; print(sys.version)'
    "${CXX:-g++}" --version 2>&1 | head -n 1 || true
    pkg-config --modversion liburing || true
    env | grep -E '^(CC|CXX|CFLAGS|CPPFLAGS|CXXFLAGS|LDFLAGS|URINGLOOP_WERROR|URINGLOOP_SANITIZE|URINGLOOP_STATIC_LIBURING)=' | sort || true
    sha256sum setup.py pyproject.toml uringloop/__init__.py uringloop/*.pyx uringloop/*.pxd cpp/*.cpp cpp/*.hpp
    stat -c '%n %s %Y' uringloop/*"$suffix" 2>/dev/null || true
}

build_uringloop() {
    local note=.venv/uringloop-build
    if [ -e "$note" ] && [ "$(describe_build)" = "$(cat "$note")" ] && venv_has_uringloop; then
        say "uringloop is built"
        return
    fi
    say "building uringloop, which takes a minute or two"
    rm -f "$note"
    venv_pip install --editable .
    describe_build >"$note"
}

install_requirements() {
    local requirements
    mapfile -t requirements < <("$venv_python" -c '
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' "$1")
    venv_pip install "${requirements[@]}"
}
