"""Keep VMs where they belong on KVM hosts that run plain libvirt.

The listing of this package, read from top to bottom, is the pipeline: `cluster` holds the
nouns, and every other folder turns one noun into the next.

    collect    the world                      -> Snapshot
    forecast   Snapshot                       -> Demand
    placement  Snapshot, Demand, Policy       -> Placement | Unsolved
    planning   Snapshot, Placement, Policy    -> Plan
    rollout    Plan                           -> outcomes; the only folder that changes the cluster
    service    the shell around them: settings, one cycle, the command line
    simulation a whole datacentre in memory, behind the same ports as the real one

`errors` and `files` lie below everything. The stages never import each other: what crosses
from one to the next is a noun of `cluster`, and only `service/cycle.py` knows the order.
"""

__version__ = "0.1.0"
