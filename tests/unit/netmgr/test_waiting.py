"""Who is waited for: what is sure without the store is never otherwise with it."""

from itertools import product

from netmgr.contract.types import Kind
from netmgr.model import HostLive
from netmgr.service.realization import HostState, realization_of, surely_waiting, targets_of
from tests.support.netmgr_worlds import H1, NET_A, world_of

KEY = (Kind.NETWORK, NET_A.uuid)


def test_a_host_is_surely_waited_for_until_it_has_confirmed_or_rejected_or_is_gone() -> None:
    world = world_of()
    targets = {H1.uuid: targets_of(world, keys=[KEY])[H1.uuid]}
    revision = targets[H1.uuid].revision
    sure = []
    for connected, acked, rejected in product(
        (True, False), (revision - 1, revision), ({}, {("network", NET_A.uuid): "no"})
    ):
        live = HostLive(
            host_uuid=H1.uuid, connected=connected, acked_revision=acked, wanted_revision=revision, rejected=rejected
        )
        (found,) = realization_of(world, targets, {H1.uuid: live})
        if surely_waiting(targets, {H1.uuid: live}):
            assert found.state is HostState.WAITING
            sure.append((connected, acked, rejected))
    assert sure == [(True, revision - 1, {})]
    assert not surely_waiting(targets, {})
