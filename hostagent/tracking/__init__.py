"""The connection tracker, for security groups: a zone for each port, and what of it moves with a guest.

`zones` assigns, `tickets` reads what the tracker says, `limits` says how much of it a port may have; all are pure.
`keeper` flushes, remembers and passes on; `ticketing` and `limiting` ask and tell.
"""
