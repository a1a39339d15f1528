"""A whole datacentre in memory, behind the same ports as the real one.

Where to begin: `scenario` reads a cluster from a YAML file, `datacentre` lets it live on a virtual
clock, `simulated_source` and `simulated_driver` are its ports, `expectations` judges what came of
it. The physics (`memory`, `transfer`, `network`) share no formula with the planner's predictions,
so that each can catch the other out.
"""
