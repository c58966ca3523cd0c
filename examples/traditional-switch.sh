#!/bin/sh -e
# A traditional switch beside the opaque networks. vmctl must serve and know h1 and h2. On each of them the operator has
# made the uplink before, an Open vSwitch bridge with a NIC in it:
#
#   ovs-vsctl add-br br-lan -- add-port br-lan eth1
#
# Then a VM may have NICs on both kinds:
#
#   vmctl vm define web --network blue --portgroup office/lan --disk /images/web.qcow2 --host h1

vmctl switch create office --hosts h1,h2 --bridge br-lan
vmctl portgroup create office/lan --vlan 20 --mtu 1400
vmctl portgroup create office/guests --vlan 30 --limit-in 12500,peak=25000,burst=1024

# Without an uplink: on each host a layer 2 of its own, for VMs that speak to each other only.
vmctl switch create cage --hosts h1,h2
vmctl portgroup create cage/in
