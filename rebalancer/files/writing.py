"""Text -> a file that somebody named: a new one, an old one, a link to one, a pipe or a device."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from rebalancer.errors import RebalancerError, UsageError

_MISNAMED = {
    errno.EACCES,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""What another name on the command line would mend. The rest, a full disk, say, is no misuse."""


def write_text(path: Path | str, pieces: Iterable[str], what: str) -> None:
    """Write `pieces` to `path`; whoever looks at a file sees the old one or the whole new one.

    A link is followed, and what is neither a file nor a new name, such as a pipe or a device, is
    written to and never replaced. `what` is what the message calls the text: `the plan`. Raises
    `UsageError` if nothing can be written there, `RebalancerError` if that did not come to its end.
    """
    path = Path(path)
    try:
        if _may_be_replaced(path):
            _replace(path.resolve(), pieces)
        else:
            with path.open("w", encoding="utf-8") as file:
                file.writelines(pieces)
    except OSError as error:
        kind = UsageError if error.errno in _MISNAMED else RebalancerError
        why = error.strerror or error
        raise kind(f"{path}: cannot save {what}: it cannot be written to: {why}") from error


def _may_be_replaced(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True  # a new name, or a link to one


def _replace(target: Path, pieces: Iterable[str]) -> None:
    written = target.with_name(f".{target.name[:200]}.{os.getpid()}.tmp")
    try:
        with written.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            written.chmod(stat.S_IMODE(target.stat().st_mode))
        written.replace(target)
    finally:
        written.unlink(missing_ok=True)
