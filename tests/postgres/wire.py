"""Nouns between processes: they hold read-only mappings, which do not travel by themselves."""

from __future__ import annotations

import copyreg
from types import MappingProxyType
from typing import Any


def let_nouns_travel() -> None:
    """Teach this process to send them."""
    copyreg.pickle(MappingProxyType, _taken_apart)


def _taken_apart(mapping: MappingProxyType[Any, Any]) -> tuple[Any, tuple[dict[Any, Any]]]:
    return _put_together, (dict(mapping),)


def _put_together(content: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(content)
