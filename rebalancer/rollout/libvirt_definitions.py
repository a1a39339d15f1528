"""Definitions of VMs on hosts, through libvirt alone: copied, removed, and what keeps them there.

A definition says nothing of files that only one host has: saved states, snapshots, UEFI
variables, an emulated TPM. A VM with such is not moved by its definition.
"""

from __future__ import annotations

from typing import Any

from rebalancer.rollout.calls import NO_DOMAIN, RefusedError


def copy(lv: Any, source: Any, target: Any | None) -> None:  # noqa: ANN401  libvirt has no types
    """Define a domain on the connection `target` as it is at its source; `None`: there again.

    That makes a transient domain persistent, too.
    """
    if target is not None:
        refuse_if_bound(lv, source, "its definition alone would be of no use elsewhere")
        _refuse_if_in_use(lv, target, source.UUIDString())
    wanted = lv.VIR_DOMAIN_XML_SECURE | lv.VIR_DOMAIN_XML_INACTIVE | lv.VIR_DOMAIN_XML_MIGRATABLE
    connection = source.connect() if target is None else target
    connection.defineXML(source.XMLDesc(wanted))


def remove(lv: Any, domain: Any) -> None:  # noqa: ANN401
    """Undefine a domain that is not active; what else belongs to it is kept, or it is refused."""
    if domain.isActive():
        raise RefusedError("it is active there")
    if domain.hasManagedSaveImage() or domain.snapshotNum():
        raise RefusedError("a saved state or snapshots of it are there and would be lost")
    flags = lv.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
    if "<tpm" in domain.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE):
        flags |= lv.VIR_DOMAIN_UNDEFINE_KEEP_TPM
    domain.undefineFlags(flags)


def refuse_if_bound(lv: Any, domain: Any, why: str) -> None:  # noqa: ANN401
    """Keep VMs with state in files of their host from being moved by their definition."""
    bound = []
    if domain.hasManagedSaveImage():
        bound.append("a saved state")
    if domain.snapshotNum():
        bound.append("snapshots")
    xml = domain.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE)
    if "<nvram" in xml:
        bound.append("UEFI variables (NVRAM)")
    if "<tpm" in xml and "type='emulator'" in xml:
        bound.append("an emulated TPM")
    if bound:
        raise RefusedError(f"it has {' and '.join(bound)} on its host; {why}")


def _refuse_if_in_use(lv: Any, connection: Any, uuid: str) -> None:  # noqa: ANN401
    """A running transient domain may be made persistent, a persistent one stays as it is."""
    try:
        there = connection.lookupByUUIDString(uuid)
    except lv.libvirtError as error:
        if error.get_error_code() == NO_DOMAIN:
            return
        raise
    if there.isActive() and there.isPersistent():
        raise RefusedError("it is active on the target, with a definition of its own")
