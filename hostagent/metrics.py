"""Prometheus metrics of one host: the agent's answer as plain values → the text that a scrape reads.

The agent has no HTTP server. `hostagent metrics` prints the text, and a timer puts it where node_exporter looks for
more (its textfile collector). So this runs in the command's process, and the agent holds nothing for it.

What can't be read is left out, never 0, and another metric says so: `hostagent_drops_read`. What has a fixed set of
names, such as states, has all of them from the start: a name that comes with its first count would hide that count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from netmgr.contract.types import PeerState, Status, VifState

__all__ = ["families", "metrics_text"]

_Values = Mapping[str, Any]

_DROP_LABELS = ("bridge", "ovs_port", "port", "port_uuid", "network", "reason")
_PORT_LABELS = ("port", "port_uuid", "network")


def metrics_text(values: _Values) -> str:
    """All metrics in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Collector(values))
    return generate_latest(registry).decode()


class _Collector(Collector):
    def __init__(self, values: _Values) -> None:
        self._values = values

    def collect(self) -> Iterable[Metric]:
        return families(self._values)


def families(values: _Values) -> Iterator[Metric]:
    """What *values*, the agent's answer to `metrics`, say."""
    yield from _host(values)
    yield from _states(values)
    yield from _drops(values)
    yield from _learning(values)
    yield from _connections(values)
    yield _counter(
        "hostagent_repairs",
        "What others changed on this host and the agent put back",
        "kind",
        values["repairs_by_kind"],
    )


def _host(values: _Values) -> Iterator[Metric]:
    sync = values["sync"]
    yield _one("hostagent_in_sync", "1 when all that is wanted is realized", sync["in_sync"])
    yield _one("hostagent_manager_connected", "1 while there is a stream from the manager", sync["connected"])
    yield _one(
        "hostagent_manager_away_seconds",
        "Seconds since the manager's stream was lost; 0 while there is one",
        sync["age_s"],
    )
    yield _one("hostagent_revision", "Newest revision of the manager that this host has been told", sync["revision"])
    yield _one("hostagent_failed_steps", "Steps that failed and are being retried", len(values["failures"]))


def _states(values: _Values) -> Iterator[Metric]:
    health = GaugeMetricFamily(
        "hostagent_switch_health", "Health score of an opaque switch, 0 to 100", labels=["switch"]
    )
    for switch in values["switches"]:
        health.add_metric([switch["name"]], switch["health"])
    yield health
    networks = Counter(network["status"] for network in values["networks"])
    yield _gauge(
        "hostagent_networks",
        "Opaque networks that this host carries, by status",
        "status",
        {status: networks[status] for status in Status},
    )
    vifs = Counter(vif["state"] for vif in values["vifs"])
    yield _gauge(
        "hostagent_vifs", "VIFs that are plugged here, by state", "state", {state: vifs[state] for state in VifState}
    )
    told = Counter((peer["switch"], peer["state"]) for peer in values["peers"])
    peers = GaugeMetricFamily(
        "hostagent_peers", "Tunnels to other hosts, by what probes say of them", labels=["switch", "state"]
    )
    for name in sorted(switch["name"] for switch in values["switches"]):
        for state in PeerState:
            peers.add_metric([name, state], told[name, state])
    yield peers


def _drops(values: _Values) -> Iterator[Metric]:
    unread = values["drops_unread"]
    yield _one("hostagent_drops_read", "0 when a switch or the kernel did not say what was dropped", not unread)
    if not unread:
        dropped = CounterMetricFamily(
            "hostagent_dropped_frames",
            "Frames that ended on this host, by port and reason, in the words of `hostagent drops`",
            labels=_DROP_LABELS,
        )
        for row in sorted(values["dropped"], key=lambda row: [row[label] for label in _DROP_LABELS]):
            dropped.add_metric([row[label] for label in _DROP_LABELS], row["packets"])
        yield dropped


def _learning(values: _Values) -> Iterator[Metric]:
    kinds = {network["uuid"]: "network" for network in values["networks"]}
    kinds |= {switch["uuid"]: "switch" for switch in values["switches"]}
    hushed = Counter(kinds.get(uuid, "port") for uuid in values["hushed"])
    yield _gauge(
        "hostagent_hushed",
        "What has claimed too much and is not heard for a while: guests of ports, servers of networks, dark ports of"
        " switches",
        "kind",
        {kind: hushed[kind] for kind in ("port", "network", "switch")},
    )
    yield _gauge(
        "hostagent_learned_addresses",
        "Addresses that guests of this host were seen to use and that are their ports', by what showed them",
        "source",
        values["learned_addresses"],
    )
    yield _one(
        "hostagent_learned_macs",
        "MACs that were seen behind ports of this host and are theirs",
        values["learned_macs"],
    )
    yield _one(
        "hostagent_address_conflicts",
        "MACs and addresses that guests of this host use and that are not their ports'",
        values["address_conflicts"],
    )


def _connections(values: _Values) -> Iterator[Metric]:
    held = GaugeMetricFamily(
        "hostagent_tracked_connections",
        "Connections of a port with stateful security groups, as counted within the last 15 s",
        labels=_PORT_LABELS,
    )
    limits = GaugeMetricFamily(
        "hostagent_tracked_connections_max", "How many connections the port may have", labels=_PORT_LABELS
    )
    vifs = {vif["port_uuid"]: vif for vif in values["vifs"] if vif["port_uuid"]}
    full = 0
    for uuid, tracked in sorted(values["connections"].items()):
        vif = vifs.get(uuid, {})
        labels = [vif.get("port", ""), uuid, vif.get("network", "")]
        held.add_metric(labels, tracked["connections"])
        limits.add_metric(labels, tracked["limit"])
        full += tracked["connections"] >= tracked["limit"] > 0
    yield held
    yield limits
    yield _one("hostagent_ports_full", "Ports that have as many connections as they may", full)


def _one(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=float(value))


def _gauge(name: str, words: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, words: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, words, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
