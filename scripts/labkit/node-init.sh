#!/bin/sh
# First process of a node: makes the mounts, says its pid (as the machine sees it), then only reaps.
# NODE_DIR is the node's directory, NODE_NAME its host name.
set -eu

# Still the machine's /proc here, so this is our pid outside of the new pid namespace.
read -r pid _ </proc/self/stat

# A checkout under a directory that is about to be hidden shows through at its place.
{ read -r from || true; read -r to || true; } <"$NODE_DIR/files/rebind"
[ -z "${from:-}" ] || mount --bind "$from" "$to"

mount --rbind "$NODE_DIR/run" /run          # first: mount(8) keeps notes under /run
mount --rbind "$NODE_DIR/var/log" /var/log
for directory in /etc/libvirt /etc/openvswitch /var/cache/libvirt; do
    [ ! -d "$directory" ] || mount --bind "$NODE_DIR$directory" "$directory"
done
for file in hosts hostname machine-id; do
    [ ! -e "/etc/$file" ] || mount --bind "$NODE_DIR/files/$file" "/etc/$file"
done
files=$NODE_DIR/files
mount --rbind "$NODE_DIR/var/lib" /var/lib

mount -t sysfs sysfs /sys                   # /sys/class/net of the new network namespace
mount -t proc proc /proc
mount --bind "$files/boot_id" /proc/sys/kernel/random/boot_id

hostname "$NODE_NAME"
ip link set lo up
# IPv6 on the lab's wires is what daemons configure, not what a router announces.
echo 0 >/proc/sys/net/ipv6/conf/default/accept_ra 2>/dev/null || true

echo "$pid"
exec >/dev/null

# `wait` collects every child, also those that daemons left behind.
while :; do
    sleep 2147483647 &
    wait || true
done
