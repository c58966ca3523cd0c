"""What this host knows of the paths to its peers: whether they work, and how large a packet passes.

Pure: `peers` (who is asked), `liveness` (what answers mean), `path_mtu` (which sizes are tried), `path_fit` (what that
means for a network). `probing` has the clock and the switch.
"""
