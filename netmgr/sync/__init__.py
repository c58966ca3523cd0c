"""The push stream to hosts, the fleet of live hosts, and the manager's OpaqueView.

Data flow: the store commits → `hub` applies the change log to its own copy of the world and marks, by the rules of
`netmgr.span`, the few objects of the few hosts concerned → each host's `outbox` turns marks into the difference to what
that host was sent → its `session` writes it. The other way, `session` reads: acknowledgements and reports go into
`fleet` (memory), claims, activations and releases through `netmgr.arbiter` into the store (`decisions`). `admission`
says who may open a stream. `server` puts it all behind mutual TLS.
"""
