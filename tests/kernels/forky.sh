#!/usr/bin/env bash
# Debian forky, in a chroot: its liburing (2.15), its compiler, and all tests on its Pythons.
#
#   sudo bash tests/kernels/forky.sh [ARGUMENT...]      arguments go to pytest
#
#   VERSIONS="3.14 3.15"   the Pythons
#   FORKY=DIRECTORY        keep the chroot there, and use it the next time; otherwise a temporary one is removed
#
# debootstrap fetches forky from the mirror that apt uses here. Python packages are downloaded outside and installed
# inside from those files. Inside, the tests are the README's command, bash tests/run.sh, in namespaces of their own:
# nothing is mounted here, and the only network is a loopback device. The kernel is this machine's.
# The exit status is 0 when the tests passed on each Python, and `import uringloop` was silent under -W error.
set -euo pipefail
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "forky.sh: debootstrap and chroot need root" >&2; exit 1; }
    exec sudo --preserve-env=VERSIONS,FORKY,PYTHON bash "${BASH_SOURCE[0]}" "$@"
fi
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

read -ra versions <<<"${VERSIONS:-3.13 3.14 3.15}"

step "tools"
choose_python
need_chroot
mirror=$(find_mirror)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=${FORKY:-$scratch/forky}
root=$(realpath -m "$root")

step "forky"
packages=(g++ liburing-dev pkg-config doctest-dev strace iproute2 procps ca-certificates openssl)
for version in "${versions[@]}"; do
    packages+=("python$version" "python$version-dev" "python$version-venv" "libpython$version-testsuite")
done
missing=()
for package in "${packages[@]}"; do
    chroot "$root" dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q ^ii || missing+=("$package")
done
if [ "${#missing[@]}" != 0 ]; then
    # What was begun and not finished is of no use.
    [ ! -e "$root" ] || die "$root is there and lacks ${missing[*]}: remove it"
    say "debootstrap from $mirror"
    # Debian 12's debootstrap does not know the name; its script is sid's.
    nice debootstrap --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
        forky "$root.new" "$mirror" /usr/share/debootstrap/scripts/sid >"$scratch/log" 2>&1 ||
        { tail -n 20 "$scratch/log"; rm -rf "$root.new"; die "debootstrap failed"; }
    mv "$root.new" "$root"
fi
say "liburing $(chroot "$root" pkg-config --modversion liburing), $(chroot "$root" g++ --version | head -n 1)"

step "Python packages"
# Not in /, where `import uringloop` would find the checkout for the package.
project=$root/srv/uringloop
rm -rf "$project" "$root/wheels"
copy_checkout "$project"
download_wheels "$root/wheels" "${versions[@]}"

# inside COMMAND...: run it in the chroot, in namespaces that end with it, and with this script.
cat >"$scratch/inside" <<'INSIDE'
set -euo pipefail
root=$1
shift
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
chroot "$root" ip link set lo up
exec chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb \
    PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 URINGLOOP_WERROR=1 "$@"
INSIDE
inside() {
    setpriv --pdeathsig KILL unshare --mount --pid --net --ipc --fork --kill-child \
        bash "$scratch/inside" "$root" "$@"
}

failed=()
for version in "${versions[@]}"; do
    step "Python $version: all tests"
    # Each in an environment of its own, and the C++ tests built anew.
    inside bash -c 'cd /srv/uringloop && PYTHON=$1 nice bash tests/run.sh "${@:2}"' - "python$version" "$@" || failed+=("$version's tests")
    step "Python $version: import with -W error"
    output=$(inside /srv/uringloop/.venv/bin/python -P -W error -c 'import uringloop; uringloop.new_event_loop().close()' 2>&1) &&
        [ -z "$output" ] || { printf '%s\n' "$output"; failed+=("$version's import"); }
done
step "done"
[ "${#failed[@]}" = 0 ] || die "failed: $(IFS=,; echo "${failed[*]}")"
say "all passed on Python ${versions[*]}"
