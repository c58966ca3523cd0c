#!/bin/sh
# What `make setup` does: Debian packages, the virtual environment, the lab's guest. Idempotent: a second run takes a
# second and changes nothing. No service is started or stopped on the machine. With --bench also what benchmarks compare
# with, OVN, and what they measure throughput with.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# What the daemons speak to (Open vSwitch, libvirt, QEMU), what the lab is made of, what the tests compare with.
packages="
    openvswitch-switch python3-openvswitch
    libvirt-daemon libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients python3-libvirt
    qemu-system-x86 qemu-system-common qemu-utils
    python3-systemd python3-venv
    busybox-static kmod cpio
    iproute2 iputils-ping nftables tcpdump ethtool procps util-linux
    make git ca-certificates curl
    postgresql"

case ${1-} in
"") ;;
--bench) packages="$packages ovn-central ovn-host iperf3" ;;
*) fail "wanted --bench or nothing, found '$1'" ;;
esac

missing() {
    for package in $packages; do
        # shellcheck disable=SC2016  # the dollar is dpkg-query's
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf ' %s' "$package"
    done
}

# Debian starts a service when its package is installed, unless this file forbids it. Ours is removed at once; one that
# a killed run left is known by its mark. A file of others stays, and its word counts.
policy=/usr/sbin/policy-rc.d
mark='# Written by opaque-networks scripts/install.sh for the time of an installation.'
drop_policy() { ! grep -qsxF "$mark" "$policy" || rm -f "$policy"; }

install_packages() {
    wanted=$(missing)
    if [ -z "$wanted" ]; then
        say "Debian packages: all there"
        return
    fi
    [ "$(id -u)" = 0 ] || fail "not root, and these Debian packages are missing:$wanted"
    command -v apt-get >/dev/null || fail "no apt-get here, and these Debian packages are missing:$wanted"
    say "installing$wanted"
    trap drop_policy EXIT
    trap 'exit 130' INT TERM
    drop_policy
    [ -e "$policy" ] || { printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy" && chmod 755 "$policy"; }
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # shellcheck disable=SC2086  # a list of words
    apt-get install -q -y --no-install-recommends $wanted
    drop_policy
    left=$(missing)
    [ -z "$left" ] || fail "apt-get reports success, and these packages are still missing:$left"
}

# Debian's interpreter with its site-packages: `ovs` (with the JSON parser in C) and `libvirt` are bound to the versions
# of the daemons they speak to, and come from Debian.
make_environment() {
    python=.venv/bin/python
    release=$(/usr/bin/python3 -c 'import sys; print(".".join(map(str, sys.version_info[:3])))')
    if ! grep -qsx "version = $release" .venv/pyvenv.cfg ||
        ! grep -qsx 'include-system-site-packages = true' .venv/pyvenv.cfg ||
        ! "$python" -c '' 2>/dev/null; then
        say "virtual environment: .venv, Python $release"
        rm -rf .venv
        /usr/bin/python3 -m venv --system-site-packages .venv
    fi
    hash=$(sha256sum pyproject.toml | cut -d' ' -f1)
    if [ "$(cat .venv/installed-for 2>/dev/null)" = "$hash $root" ]; then
        say "Python packages: all there"
    else
        say "Python packages: installing"
        "$python" -m pip install -q --disable-pip-version-check -e '.[dev]'
        printf '%s\n' "$hash $root" >.venv/installed-for
    fi
    # as packages do when they are installed: an agent that compiles itself starts a fifth of a second later
    "$python" -m compileall -q hostagent netmgr vmctl scripts
    "$python" -c 'import libvirt, systemd.daemon' || fail "Debian's Python modules are not visible in .venv"
    "$python" -c 'import ovs.json, sys; sys.exit(ovs.json.PARSER != ovs.json.PARSER_C)' ||
        fail "ovs.json parses in Python, at half the speed of C; is a PyPI build of ovs in .venv, or python3-openvswitch gone?"
}

install_packages
make_environment
if [ "$(id -u)" = 0 ]; then
    scripts/lab guest-image >/dev/null
    say "guest of the lab: there"
fi
say "done"
