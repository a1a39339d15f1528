"""Snapshot -> Demand: what will be needed over the time that a plan is made for. Pure."""
