"""A real cluster on one machine: libvirt hosts in network namespaces, QEMU guests without KVM.

The tests use it through the fixtures of `conftest.py`; people use `python -m tests.lab`.

    shape.py         what a lab is called and where everything is: pure
    requirements.py  what the machine must have, how to install it
    image.py         the guests' kernel and initramfs, built once and kept
    network.py       namespaces, the switch, links that can be cut and shaped
    process.py       processes that the lab started, told apart from all others
    host.py          LabHost: a libvirtd in a namespace
    guest.py         LabGuest: a VM whose load a test sets and whose heartbeat it watches
    heartbeat.py     the collector of heartbeats and what a series of them says
    cluster.py       Lab: starts, finds and removes all of it
    configuration.py the rebalancer's configuration file for a lab
"""
