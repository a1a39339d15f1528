"""The nouns: what a cluster is, what its owner wants, and what is going to be done about it.

Pure and immutable. Nothing in here knows a clock, a log, a network, a file or a solver.
"""
