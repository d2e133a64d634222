#!/usr/bin/env bash
# Debian 12's own kernel, Linux 6.1, in QEMU: the C++ tests, the Quick Start and an ordinary user's loops.
#
#   bash tests/kernels/debian12.sh                      all that, which takes a few minutes
#   bash tests/kernels/debian12.sh --suite [ARGUMENT...]   the Python tests as well; arguments go to pytest
#
#   PYTHON=...       the interpreter, as everywhere (tests/environment.sh)
#   KERNEL_DEB=FILE  a linux-image-6.1.0-*-amd64 package, where apt does not offer one (Debian 12's does)
#   ACCELERATOR=tcg  no KVM even where it works
#
# The kernel comes from Debian's package, which is unpacked and never installed. Its root is a directory in memory with
# busybox, the interpreter, its standard library and a copy of this checkout, built here. The exit status is 0 when
# everything passed. Nothing stays behind but the Debian packages of the tools (QEMU, busybox, cpio).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

suite=
if [ "${1:-}" = --suite ]; then
    suite=1
    shift
elif [ $# != 0 ]; then
    die "unknown argument $1: only --suite, and after it pytest's, are known"
fi
# The emulator is stopped after so many seconds: far more than it takes.
time_limit=$([ -n "$suite" ] && echo 5400 || echo 570)
memory=$([ -n "$suite" ] && echo 4096 || echo 1024)

[ "$(uname -m)" = x86_64 ] || die "this boots an amd64 kernel with an amd64 user land: run it on amd64"

step "tools"
choose_python
install_debian_packages cxx pkg-config liburing doctest
missing=()
command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
command -v cpio >/dev/null || missing+=(cpio)
# A busybox that is not static would need its libraries in there.
busybox=$(command -v busybox || true)
[ -n "$busybox" ] && ! ldd "$busybox" >/dev/null 2>&1 || missing+=(busybox-static)
[ "${#missing[@]}" = 0 ] || apt_install "${missing[@]}"
busybox=$(command -v busybox)

scratch=$(mktemp -d)
# mktemp's own mode would keep nobody, inside, from the interpreter's environment.
chmod 755 "$scratch"
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
mkdir "$root"

step "kernel"
if [ -z "${KERNEL_DEB:-}" ]; then
    command -v apt-get >/dev/null || die "there is no apt-get: download Debian 12's kernel, and name it by KERNEL_DEB="
    # Old lists name packages that the mirror has no more.
    if can_be_root; then apt_update; fi
    # The cloud's kernel first: the same sources, half the size.
    for flavour in cloud-amd64 amd64; do
        package=$(apt-cache search --names-only "^linux-image-6\.1\.0-[0-9]+-$flavour\$" | awk '{print $1}' | sort -V | tail -n 1)
        [ -z "$package" ] || break
    done
    [ -n "$package" ] || die "apt offers no linux-image-6.1.0-*-amd64, since this is not Debian 12:" \
        "download one from Debian (bookworm), and name it by KERNEL_DEB="
    (cd "$scratch" && apt-get download -qq -o APT::Sandbox::User=root "$package") || die "apt-get download $package failed"
    KERNEL_DEB=$(echo "$scratch/$package"_*.deb)
fi
dpkg-deb --fsys-tarfile "$KERNEL_DEB" | tar -C "$scratch" -xf - --wildcards './boot/vmlinuz-*'
kernel=$(echo "$scratch"/boot/vmlinuz-*)
[ -f "$kernel" ] || die "$KERNEL_DEB has no boot/vmlinuz-*"
say "$(dpkg-deb --field "$KERNEL_DEB" Package) $(dpkg-deb --field "$KERNEL_DEB" Version)"

# boot ACCELERATOR SECONDS IMAGE: the machine's console on stdout, until it powers off.
boot() {
    timeout --foreground "$2" nice qemu-system-x86_64 \
        -accel "$1" -cpu max -smp 2 -m "$memory" -display none -serial stdio -monitor none -nic none -no-reboot \
        -kernel "$kernel" -initrd "$3" -append "console=ttyS0 quiet panic=-1 random.trust_cpu=on" </dev/null
}

# pack DIRECTORY: its contents as an image that the kernel unpacks. Not compressed: that would take longer than it saves.
pack() { (cd "$1" && find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet); }

# A /dev/kvm that can be opened needs not be able to run this (in a virtual machine, above all): tried, for 15 seconds.
accelerator=${ACCELERATOR:-}
if [ -z "$accelerator" ]; then
    accelerator=tcg
    if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
        mkdir -p "$scratch/trial/bin"
        cp "$busybox" "$scratch/trial/bin/busybox"
        printf '#!/bin/busybox sh\necho it runs\n/bin/busybox poweroff -f\n' >"$scratch/trial/init"
        chmod +x "$scratch/trial/init"
        pack "$scratch/trial" >"$scratch/trial.cpio"
        if boot kvm 15 "$scratch/trial.cpio" 2>/dev/null | grep -q "it runs"; then accelerator=kvm; fi
    fi
fi
say "accelerator: $accelerator"

step "uringloop, and the C++ tests"
copy=$scratch/uringloop
copy_checkout "$copy"
cd "$copy"
make_venv
nice "$venv_python" -m pip install --quiet --disable-pip-version-check --editable ".${suite:+[test]}"
nice "$venv_python" tests/cpp/build.py plain "$scratch/cpp" >"$scratch/log" || { cat "$scratch/log"; die "the C++ tests can't be built"; }
program=$(tail -n 1 "$scratch/log")
venv_python=$copy/$venv_python
rm -rf build

step "the image"
# The interpreter, its standard library, and what was built, each where it stands here.
mapfile -t files < <("$venv_python" -c '
import os, sys, sysconfig
paths = {sysconfig.get_path(name, vars={"base": sys.base_prefix, "installed_base": sys.base_prefix,
                                        "platbase": sys.base_exec_prefix}) for name in ("stdlib", "platstdlib")}
print(os.path.realpath(sys._base_executable), os.path.dirname(sys._base_executable), *sorted(paths), sep="\n")')
python_file=${files[0]}
python_directory=${files[1]}
stdlib=("${files[@]:2}")
excluded=()
for directory in "${stdlib[@]}"; do
    for name in test idlelib tkinter turtledemo ensurepip lib2to3 site-packages 'config-*'; do
        excluded+=("--exclude=${directory#/}/$name")
    done
done
tar -C / "${excluded[@]}" -cf - "${python_file#/}" "${stdlib[@]#/}" "${copy#/}" "${program#/}" | tar -C "$root" -xf -
# The environment's python is a link, perhaps by way of others.
mkdir -p "$root$python_directory"
for name in python3 "${python_file##*/}"; do
    [ -e "$root$python_directory/$name" ] || ln -s "$python_file" "$root$python_directory/$name"
done
# Shared libraries, the loader among them; libgcc_s is loaded when a thread ends early.
{
    find "$root" -type f -name '*.so*' -o -type f -perm -u+x -name 'python3.*'
    echo "$root$program"
} | while IFS= read -r file; do
    ldd "$file" 2>/dev/null || true
done | grep -oE '/[^ )]+' | sort -u >"$scratch/libraries"
ldconfig=$(PATH=$PATH:/sbin:/usr/sbin command -v ldconfig)
"$ldconfig" -p | grep -F x86-64 | grep -oE '/[^ ]*/libgcc_s\.so\.1$' | head -n 1 >>"$scratch/libraries"
while IFS= read -r library; do
    case $library in "$root"*) ;; *) [ ! -f "$library" ] || cp -L --parents "$library" "$root" ;; esac
done <"$scratch/libraries"

mkdir -p "$root"/{bin,dev,etc,proc,root,run,sys,tmp,var}
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"

# What the Quick Start prints, the client's port left open.
cat >"$root/etc/quickstart" <<'LINES'
Serving on ('127.0.0.1', 8888)
Send: 'Hello, World!'
Connection from ('127.0.0.1', PORT)
Received: Hello, World!
Received: 'Hello, World!'
Closing connection
Connection with ('127.0.0.1', PORT) closed
LINES
# What runs inside. $python, $project, $cpp_tests, $suite and $pytest_arguments come from `settings`.
{
    printf 'python=%q\nproject=%q\ncpp_tests=%q\nsuite=%q\n' "$venv_python" "$copy" "$program" "$suite"
    printf 'pytest_arguments="%s"\n' "$(printf '%q ' "$@" | sed 's/[\\"$`]/\\&/g')"
} >"$root/etc/settings"
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -s /proc/self/fd /dev/fd
ip link set lo up
# The usual soft limit; the tests that need more files raise it.
ulimit -Hn 65536
ulimit -Sn 1024
. /etc/settings
cd "$project"

ran=0
failed=0
# check NAME SECONDS COMMAND...
check() {
    name=$1
    limit=$2
    shift 2
    echo "--- $name"
    ran=$((ran + 1))
    begun=$(date +%s)
    timeout "$limit" "$@"
    status=$?
    took=$(($(date +%s) - begun))
    if [ "$status" = 0 ]; then
        echo "--- passed in $took s: $name"
    else
        failed=$((failed + 1))
        echo "--- FAILED with status $status after $took s: $name"
    fi
}

cat >/bin/check_quickstart <<'SCRIPT'
#!/bin/sh
"$@" >/tmp/quickstart 2>&1
status=$?
cat /tmp/quickstart
[ "$status" = 0 ] || exit "$status"
sed -E "s/(Connection .*', )[0-9]+/\1PORT/" /tmp/quickstart | diff /etc/quickstart -
SCRIPT
chmod +x /bin/check_quickstart

echo "--- $(uname -sr), $(uname -v)"
"$python" - <<'PROGRAM'
import sys, uringloop
from uringloop import _overlapped
names = "DEFER_TASKRUN and SINGLE_ISSUER", "COOP_TASKRUN", "plain"
with open("/proc/cpuinfo") as file:
    processors = file.read().count("processor\t")
ring = _overlapped.Ring()
print(f"--- Python {sys.version.split()[0]}, {processors} processors, rung {ring.rung}: {names[ring.rung]}")
ring.close()
PROGRAM

# Random programs and failing calls, most of the time, are the simulated kernel's, and tell nothing of this one.
check "C++ tests" 420 "$cpp_tests" --no-breaks --no-colors --source-file-exclude='*/test_proactor_random.cpp,*/test_proactor_errors.cpp'
for way in runner run policy; do
    check "Quick Start: $way" 60 check_quickstart "$python" -W error::ResourceWarning examples/echo.py "$way"
done
for way in sequence alive threads; do
    check "an ordinary user's loops: $way" 120 "$python" -X faulthandler -W error tests/ordinary_user.py "$way"
done
if [ -n "$suite" ]; then
    # What needs a compiler is not for here.
    eval "check 'Python tests' 5000 \"\$python\" -X faulthandler -m pytest -p no:cacheprovider tests \
        --ignore=tests/test_cpp.py --ignore=tests/test_setup.py $pytest_arguments"
fi

echo "--- $((ran - failed)) of $ran passed on $(uname -sr)"
[ "$failed" != 0 ] || echo "--- all passed"
poweroff -f
INIT
chmod +x "$root/init"
pack "$root" >"$scratch/image.cpio"
say "$(du -m "$scratch/image.cpio" | cut -f1) MiB"

step "boot"
status=0
boot "$accelerator" "$time_limit" "$scratch/image.cpio" 2>&1 | sed -u 's/\r//' | tee "$scratch/console" || status=$?
step "done"
if [ "$status" = 124 ]; then die "the machine was stopped after $time_limit s"; fi
grep -qx -e '--- all passed' "$scratch/console" || die "not everything passed"
