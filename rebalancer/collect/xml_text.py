"""XML as libvirt writes it: parsed with care, and its quantities in base units."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from xml.etree import ElementTree as ET

_MOST_CHARACTERS = 16 * 2**20
"""The largest definition that libvirt itself transmits is 4 MiB."""

_UNITS: Mapping[str, int] = MappingProxyType(
    {
        "b": 1,
        "bytes": 1,
        "KB": 10**3,
        "k": 2**10,
        "KiB": 2**10,
        "MB": 10**6,
        "M": 2**20,
        "MiB": 2**20,
        "GB": 10**9,
        "G": 2**30,
        "GiB": 2**30,
        "TB": 10**12,
        "T": 2**40,
        "TiB": 2**40,
    }
)
"""libvirt's `virScaleInteger`: a bare letter is a power of 1024."""


class UnreadableXmlError(Exception):
    """libvirt's answer is not the XML it should be; it concerns one object and not its host."""


def parse(text: str) -> ET.Element:
    """Return the root element.

    libvirt never sends a document type; one that a broken or hostile host sends could blow up
    to gigabytes of entities, so it is refused unread.
    """
    if len(text) > _MOST_CHARACTERS:
        raise UnreadableXmlError(f"{len(text):,} characters of XML")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UnreadableXmlError("XML with a document type")
    try:
        return ET.fromstring(text)
    except ET.ParseError as error:
        raise UnreadableXmlError(f"not well-formed XML: {error}") from error


def text_of(element: ET.Element, path: str) -> str | None:
    """Return the text of the first element at `path`; `None` when it says nothing."""
    found = element.findtext(path)
    return found.strip() or None if found is not None else None


def attribute(element: ET.Element, path: str, name: str) -> str | None:
    """Return an attribute of the first element at `path`; `None` when it says nothing."""
    found = element.find(path)
    return found.get(name) or None if found is not None else None


def byte_count(element: ET.Element | None, attribute_name: str | None = None) -> int | None:
    """Return a size in bytes: the element's text (or an attribute) in its `unit`, or KiB."""
    if element is None:
        return None
    text = element.get(attribute_name) if attribute_name else element.text
    number = whole_number(text)
    factor = _UNITS.get(element.get("unit", "KiB"))
    return None if number is None or factor is None else number * factor


def whole_number(text: str | None) -> int | None:
    """Return the number that a text says, if it is a natural one of a sensible size."""
    stripped = (text or "").strip()
    is_number = stripped.isascii() and stripped.isdigit() and len(stripped) < 20
    return int(stripped) if is_number else None
