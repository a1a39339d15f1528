"""What settings and flags make of the permissions in a policy."""

from pathlib import Path

import pytest
from rich.console import Console

from rebalancer.cluster.inventory import Mode
from rebalancer.service.access import Where, open_for_reading
from rebalancer.service.permissions import encrypted_only, with_cold
from rebalancer.service.session import Session, open_session, policy_for
from tests.builders import a_policy

SCENARIO = Path(__file__).parents[3] / "scenarios" / "saved-memory.yaml"


def test_cold_is_added_to_what_is_allowed() -> None:
    assert with_cold(a_policy()).migration.allow == a_policy().migration.allow | {Mode.COLD}


@pytest.mark.parametrize(("tls", "saved_to"), [(True, None), (False, "vmstore")])
def test_memory_that_must_be_encrypted_is_not_saved(tls: bool, saved_to: str | None) -> None:
    opened = open_session(None, rollout__tls=tls)
    session = Session(settings=opened.settings, out=Console(), err=Console())

    access = open_for_reading(session.settings, Where(scenario=SCENARIO))

    policy = policy_for(session, access, None)

    assert policy.migration.save_to == saved_to
    assert encrypted_only(policy).migration.save_to is None
