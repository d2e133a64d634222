# Sourced by the scripts beside it; brings tests/environment.sh, whose functions they use.

source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"

started=$SECONDS
step() { printf '\n=== [%4d s] %s\n' "$((SECONDS - started))" "$*"; }

# copy_checkout DIRECTORY: a copy to build and test in, without what was built here.
copy_checkout() {
    local name names=()
    for name in cpp uringloop tests examples benchmarks docs wheels .ci .github setup.py pyproject.toml MANIFEST.in __init__.py *.md LICENSE*; do
        [ ! -e "$name" ] || names+=("$name")
    done
    mkdir -p "$1"
    tar --exclude='*.so' --exclude='*.o' --exclude=__pycache__ --exclude='tests/cpp/build*/' -cf - "${names[@]}" |
        tar -C "$1" -xf -
}

# -- what the scripts that make a chroot share --

# Prints the mirror of Debian that apt uses here.
find_mirror() {
    local mirror
    list_mirror() { apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' 2>/dev/null | head -n 1; }
    mirror=$(list_mirror) || true
    if [ -z "$mirror" ]; then
        apt_update >&2
        mirror=$(list_mirror) || true
    fi
    [ -n "$mirror" ] || die "apt's sources name no mirror of Debian"
    printf '%s\n' "$mirror"
}

# need_chroot: apt, debootstrap and namespaces, or the end.
need_chroot() {
    command -v apt-get >/dev/null || die "this needs Debian's apt, whose mirror it uses"
    command -v debootstrap >/dev/null || apt_install debootstrap
    unshare --mount --pid --net --fork true 2>/dev/null || die "this may make no namespaces here: it needs a whole machine's root"
}

# download_wheels DIRECTORY VERSION...: what building and testing needs of Python packages, for these Pythons.
download_wheels() {
    local directory=$1 version requirements
    "$python" -m venv "$scratch/venv"
    mapfile -t requirements < <("$python" -c '
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
print(*project["build-system"]["requires"], *project["project"]["optional-dependencies"]["test"], sep="\n")')
    for version in "${@:2}"; do
        # Wheels for every platform, or for this version here.
        "$scratch/venv/bin/python" -m pip download --quiet --disable-pip-version-check --dest "$directory" \
            --only-binary :all: --python-version "$version" --implementation cp --abi "cp${version/./}" --abi abi3 --abi none \
            --platform any --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
            "${requirements[@]}"
    done
    say "$(ls "$directory" | sed 's/-py.*//; s/-cp.*//' | sort -u | tr '\n' ' ')"
}
