"""Prometheus metrics of the manager, read from the hub and the fleet when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from netmgr.contract.types import Kind, PeerState
from netmgr.model import World
from netmgr.sync.hub import Hub

__all__ = ["metrics_text"]

_COUNTS = {
    "updates_sent": "Parts of updates sent to hosts",
    "claims_granted": "Claims granted",
    "claims_refused": "Claims refused",
    "tickets_passed": "Connections of migrating guests passed on to their next host, once a word",
    "tickets_refused": "Connections of guests that were told by a host whose guest they are not, or for nobody",
}

_LEARNED = {
    "learned_addresses": "Addresses that guests were seen to use and that are their ports'",
    "learned_macs": "MACs that were seen behind ports and are theirs",
    "refused_addresses": "Addresses that guests use or probe for and that are not their ports'",
    "refused_macs": "MACs that guests use and that are not their ports'",
}


def metrics_text(hub: Hub) -> bytes:
    """All metrics in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Collector(hub))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        hub, lives = self._hub, self._hub.fleet.lives()
        yield GaugeMetricFamily("netmgr_revision", "Newest revision of the store", value=hub.world.revision)
        objects = GaugeMetricFamily("netmgr_objects", "Rows by kind", labels=["kind"])
        for kind in Kind:
            objects.add_metric([kind], len(hub.world.rows(kind)))
        yield objects
        connected = [live for live in lives.values() if live.connected]
        in_sync = sum(hub.fleet.in_sync(live.host_uuid) for live in connected)
        yield GaugeMetricFamily("netmgr_hosts_connected", "Hosts with an open stream", value=len(connected))
        yield GaugeMetricFamily("netmgr_hosts_in_sync", "Hosts that have confirmed all they were sent", value=in_sync)
        rejections = sum(len(live.rejections) for live in lives.values())
        yield GaugeMetricFamily("netmgr_rejections", "Objects that hosts can't realize", value=rejections)
        repairs = CounterMetricFamily(
            "netmgr_host_repairs", "What others changed on a host and its agent put back", labels=["host"]
        )
        for live in connected:
            host = hub.world.hosts.get(live.host_uuid)
            repairs.add_metric([host.name if host is not None else str(live.host_uuid)], live.report.repairs_total)
        yield repairs
        peers = GaugeMetricFamily(
            "netmgr_host_peers",
            "Tunnels of a host, by what its probes say of them",
            labels=["host", "state"],
        )
        for live in connected:
            host = hub.world.hosts.get(live.host_uuid)
            told = Counter(peer.state for switch in live.report.switches for peer in switch.peers)
            for state in PeerState:
                peers.add_metric([host.name if host is not None else str(live.host_uuid), state], told[state])
        yield peers
        yield from _learning(hub.world)
        for name, words in _COUNTS.items():
            yield CounterMetricFamily(f"netmgr_{name}", words, value=hub.counts[name])


def _learning(world: World) -> Iterator[Metric]:
    """What guests were seen to use, by network; a network of which nothing is known has no line."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in _LEARNED}
    networks = {world.networks[row.network_uuid].name for row in world.learned.values()}
    for row in world.learned.values():
        network = world.networks[row.network_uuid].name
        for address in row.addresses:
            counts["refused_addresses" if address.refused else "learned_addresses"][network] += 1
        for mac in row.macs:
            counts["refused_macs" if mac.refused else "learned_macs"][network] += 1
    yield GaugeMetricFamily(
        "netmgr_address_conflicts",
        "MACs and addresses that guests use and that are not their ports'",
        value=counts["refused_addresses"].total() + counts["refused_macs"].total(),
    )
    for name, words in _LEARNED.items():
        family = GaugeMetricFamily(f"netmgr_{name}", words, labels=["network"])
        for network in sorted(networks):
            family.add_metric([network], counts[name][network])
        yield family
