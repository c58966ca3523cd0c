"""The connection tracker, for security groups: a zone for each port, and what of it moves with a guest.

`zones` assigns, `tickets` reads what the tracker says; both are pure. `keeper` flushes, remembers and passes on.
"""
