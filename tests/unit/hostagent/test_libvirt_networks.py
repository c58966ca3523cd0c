"""libvirt's networks as XML: what we define, and which edits show. Against a real libvirtd: tests/e2e."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from hostagent.model import DefineNetwork
from hostagent.realize.libvirt_link import LibvirtLink
from hostagent.realize.libvirt_networks import LibvirtNetworks, network_xml, parse_network

BLUE = DefineNetwork(uuid=uuid4(), name="blue", bridge="osw-0123456789", mtu=1450)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("</network>", "<portgroup name='x'/></network>"), "plain"),
        (("mode='bridge'", "mode='bridge' dev='eth0'"), "plain"),
        (("<virtualport type='openvswitch'/>", ""), "plain"),
        (('mtu="1450"', ""), "mtu"),
        (('owner="hostagent"', 'owner="x"'), "plain"),
    ],
)
def test_an_edit_shows(change: tuple[str, str], says: str) -> None:
    ours = network_xml(BLUE)
    assert parse_network(ours).plain
    edited = parse_network(ours.replace(*change))
    assert getattr(edited, says) != getattr(parse_network(ours), says)
    assert edited.ours  # by its mark, or by its bridge


def test_libvirts_own_additions_are_no_edit() -> None:
    shown = network_xml(BLUE).replace("<network>", "<network connections='2'>", 1)
    assert parse_network(shown) == parse_network(network_xml(BLUE))


def test_without_libvirt_networks_are_unread_with_the_reason() -> None:
    async def main() -> None:
        link = LibvirtLink("qemu+unix:///system?socket=/nonexistent/libvirt-sock")
        networks = LibvirtNetworks(link, on_change=lambda: None)
        link.start()
        await asyncio.sleep(0.3)
        found = await networks.read()
        await link.close()
        assert "nonexistent" in getattr(found, "reason", "")

    asyncio.run(main())
