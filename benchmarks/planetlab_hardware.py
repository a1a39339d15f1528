"""The machines and VMs of the PlanetLab benchmark, as CloudSim 3.0.3 has them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]
type Ints = NDArray[np.intp]
type Bools = NDArray[np.bool_]

LINK_MB_PER_SECOND = 1_000_000 / 16_000
"""Half of the hosts' 1 Gbit/s."""
HOST_PE_MIPS = np.array([1860.0, 2660.0])
HOST_MIPS = 2 * HOST_PE_MIPS
HOST_MEMORY_MB = 4096
HOST_VMS_AT_CREATION = 10
"""Each VM asks for 100 Mbit/s of 1 Gbit/s when it is created, and for nothing afterwards."""
HOST_WATTS = np.array(
    [
        [86, 89.4, 92.6, 96, 99.5, 102, 106, 108, 112, 114, 117],
        [93.7, 97, 101, 105, 110, 116, 121, 125, 129, 133, 135],
    ]
)
"""HP ProLiant ML110 G4 and G5 at 0, 10, …, 100 % load, by SPECpower_ssj2008."""
VM_MIPS = np.array([2500.0, 2000.0, 1000.0, 500.0])
VM_MEMORY_MB = np.array([870, 1740, 1740, 613])


def watts(kind: Ints, load: Floats) -> Floats:
    """Draw of hosts of these kinds at these loads in [0, 1]: a line between every two of 11 points.

    An idle host draws `HOST_WATTS[kind, 0]` here; whether it is switched off is the caller's.
    """
    tenths = load * 10
    low = np.floor(tenths).astype(np.intp)
    high = np.ceil(tenths).astype(np.intp)
    below, above = HOST_WATTS[kind, low], HOST_WATTS[kind, high]
    return np.asarray(below + (above - below) / 10 * (load - low / 10) * 100)


def migration_seconds(memory_mb: float) -> float:
    """How long a VM is on its way."""
    return memory_mb / LINK_MB_PER_SECOND
