"""Fixtures that several modules use."""

from tests.unit.service.daemon_world import make_world  # noqa: F401
