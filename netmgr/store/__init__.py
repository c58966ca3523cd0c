"""The store: all that netmgr knows, on disk, with a change log that replicas and streams follow.

See `store` for the theory of operation; `Store` and `Transaction` are all that others use.
"""

from netmgr.store.store import Store, Transaction

__all__ = ["Store", "Transaction"]
