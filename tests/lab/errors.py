"""What goes wrong with the lab itself, as opposed to what a test finds out."""

from __future__ import annotations


class LabError(Exception):
    """The lab could not do what it was asked; the message says what, to what, and what to do."""


class LabUnavailableError(LabError):
    """This machine cannot run the lab."""
