#!/usr/bin/env bash
# A newcomer's machine: both commands of the README on a bare Debian 13, as an ordinary user with sudo.
#
#   sudo bash tests/kernels/trixie.sh [ARGUMENT...]     arguments go to pytest
#
#   TRIXIE=DIRECTORY   keep the bare system there, and copy it the next time; otherwise it is made anew
#
# debootstrap fetches Debian 13 from the mirror that apt uses here; nothing is in it but sudo. The commands install what
# they miss, from that mirror. Python packages are downloaded outside and installed inside from those files. CPython's own
# tests must run. In the end each command runs once more, which must build nothing. The kernel is this machine's.
# The exit status is 0 when all of that is so.
set -euo pipefail
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "trixie.sh: debootstrap and chroot need root" >&2; exit 1; }
    exec sudo --preserve-env=TRIXIE,PYTHON bash "${BASH_SOURCE[0]}" "$@"
fi
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

step "tools"
choose_python
need_chroot
mirror=$(find_mirror)
# The first and the second fenced bash block.
readme_command() {
    awk -v wanted="$1" '/^```bash$/ { block++; inside = (block == wanted); next } /^```/ { inside = 0 } inside' README.md
}
quickstart=$(readme_command 1)
tests=$(readme_command 2)
[ -n "$quickstart" ] && [ -n "$tests" ] || die "README.md lacks its two commands"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# mktemp's own mode would keep the user out.
chmod 755 "$scratch"
root=$scratch/trixie

step "trixie"
if [ -n "${TRIXIE:-}" ] && [ -e "$TRIXIE" ]; then
    cp -a "$TRIXIE" "$root"
else
    say "debootstrap from $mirror"
    # Debian 12's debootstrap may not know the name; its script is sid's.
    nice debootstrap --variant=minbase --include=sudo trixie "$root" "$mirror" /usr/share/debootstrap/scripts/sid \
        >"$scratch/log" 2>&1 || { tail -n 20 "$scratch/log"; die "debootstrap failed"; }
    [ -z "${TRIXIE:-}" ] || cp -a "$root" "$TRIXIE"
fi
chroot "$root" useradd --create-home --shell /bin/bash --groups sudo newcomer
echo 'newcomer ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/newcomer"
cp /etc/resolv.conf "$root/etc/resolv.conf"
printf '127.0.0.1 localhost %s\n::1 localhost\n' "$(uname -n)" >"$root/etc/hosts"
copy_checkout "$root/home/newcomer/uringloop"
chroot "$root" chown -R newcomer: /home/newcomer
download_wheels "$root/wheels" 3.13

# as_newcomer COMMAND: a shell's command in the checkout, in namespaces that end with it, and with this script.
cat >"$scratch/inside" <<'INSIDE'
set -euo pipefail
root=$1
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
exec chroot "$root" setpriv --reuid newcomer --regid newcomer --init-groups \
    env -i HOME=/home/newcomer USER=newcomer PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 TERM=dumb \
    PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels URINGLOOP_CONFORMANCE=required \
    bash -euo pipefail -c 'cd ~/uringloop; eval "$1"' - "$2"
INSIDE
as_newcomer() {
    setpriv --pdeathsig KILL unshare --mount --pid --ipc --fork --kill-child nice bash "$scratch/inside" "$root" "$1"
}

step "$quickstart"
as_newcomer "$quickstart"
step "$tests"
as_newcomer "$tests $(printf '%q ' "$@")"
step "once more"
for command in "$quickstart" "$tests --collect-only -qq tests/test_setup.py"; do
    begun=$SECONDS
    as_newcomer "$command" >"$scratch/log" || { cat "$scratch/log"; die "$command failed"; }
    grep -qx -e '== uringloop is built' "$scratch/log" || { cat "$scratch/log"; die "$command has built again"; }
    say "$command: $((SECONDS - begun)) s"
done
step "done"
say "all passed on Debian $(cat "$root/etc/debian_version")"
