#!/usr/bin/env bash
# Makes a base image where none can be pulled: Debian with Python 3.11 by debootstrap, laid out like python:3.11-slim.
# Invariants: nothing of this machine gets in (no certificates, no apt settings); the same base serves all three images.
# Wants root, debootstrap and a docker engine. TAG, SUITE, MIRROR and DOCKER may be set.
set -euo pipefail

tag=${TAG:-hanforge-base:bookworm}
suite=${SUITE:-bookworm}
docker=${DOCKER:-docker}

if [ "$(id -u)" -ne 0 ]; then
    echo "base image: debootstrap unpacks with the owners of files, which takes root: sudo make base-image" >&2
    exit 2
fi
if ! command -v debootstrap >/dev/null; then
    echo "base image: no debootstrap here: apt-get install debootstrap" >&2
    exit 2
fi

began=$SECONDS
work=$(mktemp -d "${TMPDIR:-/tmp}/hanforge-base-XXXXXX")
root=$work/root
trap 'rm -rf "$work"' EXIT
if ! debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv \
    "$suite" "$root" ${MIRROR:+"$MIRROR"} >"$work/log" 2>&1; then
    tail -n 20 "$work/log" >&2
    echo "base image: debootstrap failed; the lines above say why" >&2
    exit 1
fi

# Security updates lie beside the archive; a mirror without them is used as it is.
mirror=$(awk '/^deb /{print $2; exit}' "$root/etc/apt/sources.list")
echo "deb ${mirror%/}-security $suite-security main" >"$root/etc/apt/sources.list.d/security.list"
if ! chroot "$root" apt-get update -qq 2>"$work/log"; then
    echo "base image: no security updates at ${mirror%/}-security; going on without them" >&2
    rm "$root/etc/apt/sources.list.d/security.list"
    chroot "$root" apt-get update -qq
fi
export DEBIAN_FRONTEND=noninteractive
chroot "$root" apt-get upgrade -y -qq >"$work/log" 2>&1
# Python's headers alone: python:3.11-slim has them, Triton and the optional extension compile against them.
chroot "$root" sh -c 'cd /tmp && apt-get download -qq libpython3.11-dev && dpkg-deb --fsys-tarfile libpython3.11-dev_*.deb |
    tar -x -C / ./usr/include && rm libpython3.11-dev_*.deb'
ln -s /usr/bin/python3 "$root/usr/local/bin/python"
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/log/*.log "$root"/var/log/apt/* "$root"/var/cache/debconf/*-old \
    "$root"/var/cache/apt/* "$root"/usr/share/{doc,man,info,locale}/* "$root/etc/resolv.conf" "$root/etc/hostname"
: >"$root/etc/machine-id"

tar -C "$root" --numeric-owner --one-file-system -c . | "$docker" import \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
    --change 'CMD ["python3"]' - "$tag" >/dev/null
echo "base image: $tag, $(du -sm "$root" | cut -f1) MB, in $((SECONDS - began)) s"
