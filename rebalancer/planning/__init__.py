"""Snapshot, Placement, Policy -> Plan: how to get there, in what order, how long it takes. Pure."""
