"""Where saved memories are on a host."""

import pytest

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.rollout.calls import RefusedError
from rebalancer.rollout.driver import Save
from rebalancer.rollout.libvirt_images import image_folder

SAVE = Save(vm=VmId("v1"), host=HostId("h1"), storage="vmstore", file="v1.save")


def test_each_host_has_the_folder_where_it_has_the_storage_mounted() -> None:
    assert image_folder({"vmstore": "/mnt/vmstore/"}, SAVE) == "/mnt/vmstore/rebalancer-saved"


def test_storage_that_nobody_configured_is_refused() -> None:
    with pytest.raises(RefusedError, match="where storage vmstore is on h1"):
        image_folder({"other": "/mnt/other"}, SAVE)
