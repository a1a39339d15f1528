"""Snapshot, Demand, Policy -> Placement: who should be where. Pure but for the solver."""
