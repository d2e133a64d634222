# Sourced by examples/quickstart.sh, tests/run.sh and .ci/run: what a fresh clone lacks, it gets here.
#
#   choose_python                    sets $python to the newest CPython from 3.12 up that really runs
#   install_debian_packages NEED...  NEED: cxx, pkg-config, liburing, doctest, strace
#   make_venv                        sets $venv_python: .venv of $python, made anew when it is another's
#
# Nothing is installed that is there already, so that a second run needs no root. PYTHON=... names an
# interpreter (a path, or a name on PATH or in pyenv's versions) and ends the search.

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
    [ -n "$found" ] || die "there is no Python from 3.12 up; to get one:" \
        "'sudo apt install make g++ git curl libssl-dev zlib1g-dev libbz2-dev liblzma-dev libffi-dev libsqlite3-dev" \
        "&& curl -fsSL https://pyenv.run | bash && ~/.pyenv/bin/pyenv install 3.13', then run this again" \
        "(or name one by PYTHON=/path/to/python3)"
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
