"""What an operator names as a file to be written, and what becomes of it."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebalancer.errors import ExitCode, RebalancerError, UsageError
from rebalancer.files import write_text


def save(path: Path, text: str = "new") -> None:
    write_text(path, [text], what="the plan")


def test_a_new_file_is_made_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    save(tmp_path / "plan.json")

    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]


def test_a_file_is_replaced_as_a_whole_and_keeps_its_permissions(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text("old")
    file.chmod(0o640)
    with file.open() as reader:
        save(file)
        assert reader.read() == "old"

    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link, target = tmp_path / "latest.json", tmp_path / "kept" / "plan.json"
    link.symlink_to(target)

    save(link, "first")
    save(link, "second")

    assert link.is_symlink()
    assert target.read_text() == "second"
    assert list(target.parent.iterdir()) == [target]


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()

    save(pipe)
    reader.join(timeout=60)

    assert read == ["new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def a_device(folder: Path, minor: int) -> Path:
    """A node of our own: 3 forgets what is written, 7 says that the disk is full."""
    node = folder / "node"
    try:
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        with node.open("rb"):
            pass
    except OSError:
        pytest.skip("needs the right to make and use device nodes")
    return node


def test_a_device_is_written_to_and_stays_a_device(tmp_path: Path) -> None:
    node = a_device(tmp_path, minor=3)

    save(node)

    assert stat.S_ISCHR(node.stat().st_mode)


def test_a_link_to_a_device_leaves_both_as_they_are(tmp_path: Path) -> None:
    node = a_device(tmp_path, minor=3)
    link = tmp_path / "link"
    link.symlink_to(node)

    save(link)

    assert link.is_symlink()
    assert stat.S_ISCHR(node.stat().st_mode)


def test_a_full_disk_is_an_error_and_no_misuse(tmp_path: Path) -> None:
    node = a_device(tmp_path, minor=7)

    with pytest.raises(RebalancerError, match="cannot save the plan") as failed:
        save(node)

    assert failed.value.exit_code == ExitCode.ERROR
    assert stat.S_ISCHR(node.stat().st_mode)


def test_a_disk_that_fills_up_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    def until_it_is_full() -> Iterator[str]:
        yield "half of it"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = tmp_path / "plan.json"
    file.write_text("old")

    with pytest.raises(RebalancerError, match="No space left") as failed:
        write_text(file, until_it_is_full(), what="the plan")

    assert failed.value.exit_code == ExitCode.ERROR
    assert [(each, each.read_text()) for each in tmp_path.iterdir()] == [(file, "old")]


def test_a_name_that_no_file_can_have_is_a_misuse(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    names = ("folder", "no/plan.json", "file/plan.json", "loop", "x" * 300)

    for name in names:
        with pytest.raises(UsageError, match="cannot save the plan"):
            save(tmp_path / name)
