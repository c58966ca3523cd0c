"""Addresses as text → values, each text parsed once.

Every turn of the agent's loop compares the host's few addresses with the wanted ones; parsing them anew took a tenth of
each turn.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

__all__ = ["interface_of"]


@lru_cache(maxsize=1024)
def interface_of(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """The address, with its prefix, that *text* is. ValueError when it is none."""
    return ipaddress.ip_interface(text)
