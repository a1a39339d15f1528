"""World -> Snapshot. Reads only: nothing in here can change a host."""
