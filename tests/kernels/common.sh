# Sourced by the scripts beside it; brings tests/environment.sh, whose functions they use.

source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"

started=$SECONDS
step() { printf '\n=== [%4d s] %s\n' "$((SECONDS - started))" "$*"; }

# copy_checkout DIRECTORY: a copy to build and test in, without what was built here.
copy_checkout() {
    local name names=()
    for name in cpp uringloop tests examples benchmarks docs .ci setup.py pyproject.toml MANIFEST.in __init__.py *.md LICENSE; do
        [ ! -e "$name" ] || names+=("$name")
    done
    mkdir -p "$1"
    tar --exclude='*.so' --exclude='*.o' --exclude=__pycache__ --exclude='tests/cpp/build*/' -cf - "${names[@]}" |
        tar -C "$1" -xf -
}
