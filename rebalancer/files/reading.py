"""Bytes on a disk -> text -> Document -> model."""

import difflib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rebalancer.errors import Fault, InvalidFileError
from rebalancer.files import json_text, yaml_text
from rebalancer.files.document import Document

MOST_YAML_MIB = 4
"""People do not write longer files, and reading one takes seconds."""

MOST_JSON_MIB = 64
"""A snapshot of 1,000 hosts and 20,000 VMs is some 15 MiB, with a day of usage some 50 MiB."""

MOST_TABLE_MIB = 512
"""A month of 1,000 VMs, every 5 minutes, is some 60 MiB of CSV."""


class FileModel(BaseModel):
    """What a file, or a part of one, should hold. A misspelt key is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_yaml[M: BaseModel](path: Path | str, model: type[M]) -> M:
    """Read a YAML file as a `model`, or raise `InvalidFileError`."""
    return open_yaml(path).read(model)


def read_json[M: BaseModel](path: Path | str, model: type[M]) -> M:
    """Read a JSON file as a `model`, or raise `InvalidFileError`."""
    return open_json(path).read(model)


def parse_yaml_text[M: BaseModel](text: str | bytes, model: type[M], file: str = "<text>") -> M:
    """Read YAML that is at hand already; `file` is what faults call it."""
    return yaml_text.parse(_decoded(text, file), file).read(model)


def parse_json_text[M: BaseModel](text: str | bytes, model: type[M], file: str = "<text>") -> M:
    """Read JSON that is at hand already; `file` is what faults call it."""
    return json_text.parse(_decoded(text, file), file).read(model)


def open_yaml(path: Path | str) -> Document:
    """Read a YAML file without asking what it should hold."""
    return yaml_text.parse(_read_text(path, MOST_YAML_MIB), str(path))


def open_json(path: Path | str) -> Document:
    """Read a JSON file without asking what it should hold."""
    return json_text.parse(_read_text(path, MOST_JSON_MIB), str(path))


def read_table_text(path: Path | str) -> str:
    """Read the text of a table; raise `InvalidFileError` if there is none, or far too much."""
    return _read_text(path, MOST_TABLE_MIB)


def _read_text(path: Path | str, most_mib: int) -> str:
    try:
        # Not the size that the directory tells: a pipe or a device has none.
        with Path(path).open("rb") as file:
            content = file.read(most_mib * 2**20 + 1)
    except FileNotFoundError as error:
        raise _unusable(str(path), "no such file", _neighbour(Path(path))) from error
    except IsADirectoryError as error:
        raise _unusable(str(path), "this is a directory, not a file") from error
    except OSError as error:
        raise _unusable(str(path), f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL character in the path
        raise _unusable(str(path), f"cannot be read: {error}") from error
    if len(content) > most_mib * 2**20:
        raise _unusable(str(path), f"larger than {most_mib} MiB, so not a file of this kind")
    return _decoded(content, str(path))


def _decoded(text: str | bytes, file: str) -> str:
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        decoded = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unusable(file, "not text in UTF-8", where=f"line {line}") from error
    if not decoded or decoded.isspace():
        raise _unusable(file, "the file is empty")
    return decoded


def _neighbour(path: Path) -> str:
    """Return a question that names the file which was probably meant."""
    try:
        names = [each.name for each in path.parent.iterdir()]
    except (OSError, ValueError):
        return ""
    near = difflib.get_close_matches(path.name, names, n=1)
    return f'did you mean "{path.parent / near[0]}"?' if near else ""


def _unusable(file: str, problem: str, expected: str = "", where: str = "") -> InvalidFileError:
    return InvalidFileError([Fault(file=file, where=where, problem=problem, expected=expected)])
