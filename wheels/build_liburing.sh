#!/usr/bin/env bash
# Builds the liburing.a that wheels have inside: a released version, known by its checksum.
#
#   bash wheels/build_liburing.sh PREFIX               downloads, builds, installs headers, liburing.a and liburing.pc
#   bash wheels/build_liburing.sh PREFIX TARBALL       ... from a tarball that is there already
#
# Then PKG_CONFIG_PATH=PREFIX/lib/pkgconfig and URINGLOOP_STATIC_LIBURING=1 have setup.py link it.
# For a new version change the two lines below, and LICENSE.liburing with it if theirs has changed.
set -euo pipefail

version=2.13
sha256=618e34dbea408fc9e33d7c4babd746036dbdedf7fce2496b1178ced0f9b5b357

die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

[ $# = 1 ] || [ $# = 2 ] || die "usage: ${0##*/} PREFIX [TARBALL]"
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
tarball=$(realpath "${2:-liburing.tar.gz}")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ $# = 1 ]; then
    tarball=$work/liburing.tar.gz
    curl -fsSL --retry 5 -o "$tarball" \
        "https://github.com/axboe/liburing/archive/refs/tags/liburing-$version.tar.gz"
fi
# (-s: BusyBox, which musllinux's images may have, knows no other name for it.)
echo "$sha256  $tarball" | sha256sum -c -s 2>/dev/null || echo "$sha256  $tarball" | sha256sum -c --status ||
    die "$tarball is not liburing $version: its SHA-256 is not $sha256"
tar -xzf "$tarball" -C "$work" --no-same-owner
cd "$work/liburing-liburing-$version"

# Neither tests nor examples, which need more than a compiler; and position-independent, as a part of a module.
./configure --prefix="$prefix" --libdir="$prefix/lib" >/dev/null
make -s -C src ENABLE_SHARED=0 CFLAGS="-O2 -Wall -fPIC" liburing.a
make -s liburing.pc
install -d "$prefix/include/liburing/io_uring" "$prefix/lib/pkgconfig"
install -m 644 src/include/liburing.h "$prefix/include"
install -m 644 src/include/liburing/*.h "$prefix/include/liburing"
install -m 644 src/include/liburing/io_uring/*.h "$prefix/include/liburing/io_uring"
install -m 644 src/liburing.a "$prefix/lib"
install -m 644 liburing.pc "$prefix/lib/pkgconfig"
echo "liburing $version: $prefix/lib/liburing.a"
