"""Changes of links and addresses, and the classifiers of shaped links, by pyroute2.

The library keeps a little memory for each request, so its socket is replaced now and then. Its errors leave as OSError.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from hostagent.model import AddAddress, Classifier, RemoveAddress, SetArpIgnore, SetClassifier, SetLink
from hostagent.realize.classifier import read_classifiers, write_classifier
from hostagent.realize.rtnetlink import set_arp_ignore

__all__ = ["Changes"]

_REQUESTS_PER_SOCKET = 500


class Changes:
    """Use from one thread."""

    def __init__(self) -> None:
        self._route: Any = None
        self._requests = 0

    def close(self) -> None:
        if self._route is not None:
            self._route.close()
            self._route = None

    def classifiers(self) -> dict[int, Classifier]:
        """By index of the link: what is ours on links that Open vSwitch shapes.

        Raises:
            OSError: the kernel refused, or did not answer.
        """
        with self._open() as route:
            return read_classifiers(route)

    def apply(self, step: SetLink | SetArpIgnore | AddAddress | RemoveAddress | SetClassifier) -> None:
        """Carry *step* out.

        Raises:
            OSError: the kernel refused.
        """
        name = step.name if isinstance(step, SetLink) else step.link
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            if isinstance(step, RemoveAddress) or (isinstance(step, SetClassifier) and not step.filters):
                return
            raise OSError(errno.ENODEV, "no such interface") from None
        if isinstance(step, SetArpIgnore):  # of a link's IPv4 configuration the library only reads
            set_arp_ignore(index, step.arp_ignore)
            return
        with self._open() as route:
            if isinstance(step, SetClassifier):
                write_classifier(route, index, step.filters, step.queue_bytes)
            elif isinstance(step, SetLink):
                route.link("set", index=index, state="up", **({} if step.mtu is None else {"mtu": step.mtu}))
            else:
                _change_address(route, index, step)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        if self._route is None or self._requests >= _REQUESTS_PER_SOCKET:
            self.close()
            self._route = IPRoute()
            self._requests = 0
        self._requests += 1
        try:
            yield self._route
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from None
        except OSError:
            self.close()
            raise


def _change_address(route: Any, index: int, step: AddAddress | RemoveAddress) -> None:
    interface = ipaddress.ip_interface(step.address)
    verb = "add" if isinstance(step, AddAddress) else "del"
    tolerated = errno.EEXIST if verb == "add" else errno.EADDRNOTAVAIL
    try:
        route.addr(verb, index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen)
    except NetlinkError as error:
        if error.code != tolerated:
            raise
