"""Pack the program, its libraries and an interpreter into a .deb: `make deb`.

What is packed is what this environment has, version by version: what the tests ran with. The
interpreter goes along unless it is the distribution's own, as Debian's stable one may be older
than the program needs; then the package is for machines like this one, or newer.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from gzip import GzipFile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import typer
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("postinst", "prerm", "postrm")
PROGRAM = "vm-rebalancer"
HOME = Path("usr/lib/rebalancer")
UNUSED = {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"}
"""Folders of the standard library that no daemon needs."""


def needed(name: str, extras: Sequence[str]) -> dict[str, Distribution]:
    """Find a distribution and all that it requires, as installed here."""
    found: dict[str, Distribution] = {}
    open_ends = [(name, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while open_ends:
        name, wanted = open_ends.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            dist = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(
                f"{name} is not installed: pip install '.[{','.join(extras)}]'"
            ) from None
        found[dist.name.lower()] = dist
        for line in dist.requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": each}) for each in (*wanted, "")):
                open_ends.append((requirement.name, frozenset(requirement.extras)))
    return found


def copy_packages(into: Path, extras: Sequence[str]) -> None:
    """Copy the libraries, and the program as it is in this folder."""
    for name, dist in needed(PROGRAM, extras).items():
        for file in dist.files or ():
            source = Path(str(dist.locate_file(file)))
            inside = not {"..", "__pycache__"} & set(file.parts) and not file.is_absolute()
            is_own = name == PROGRAM and not file.parts[0].endswith(".dist-info")
            if inside and not is_own and source.is_file() and file.name != "direct_url.json":
                target = into / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
    shutil.copytree(
        ROOT / "rebalancer", into / "rebalancer", ignore=shutil.ignore_patterns("__pycache__")
    )


def copy_interpreter(into: Path) -> str:
    """Copy this interpreter without what is not needed; return where its program is."""
    base, version = Path(sys.base_prefix), f"python{sys.version_info[0]}.{sys.version_info[1]}"

    def left_out(folder: str, names: list[str]) -> set[str]:
        unused = {name for name in names if name in UNUSED or name.endswith((".a", ".pyc"))}
        unused |= {name for name in names if name.startswith(("config-", "_tkinter"))}
        return unused | {"__pycache__", "site-packages"}

    shutil.copytree(base / "lib" / version, into / "lib" / version, ignore=left_out, symlinks=True)
    (into / "lib" / version / "site-packages").mkdir()
    (into / "bin").mkdir()
    shutil.copy2(base / "bin" / version, into / "bin" / version)
    for library in (base / "lib").glob(f"lib{version}*.so*"):
        shutil.copy2(library, into / "lib" / library.name, follow_symlinks=False)
    return f"/{HOME}/python/bin/{version}"


def write_command(root: Path, interpreter: str, *, bundled: bool) -> None:
    """Write what is called `rebalancer`."""
    library = f"export LD_LIBRARY_PATH=/{HOME}/python/lib\n" if bundled else ""
    # -s: what somebody has in ~/.local is no part of the program. Nor is what $PYTHONPATH says.
    text = (
        "#!/bin/sh\nunset PYTHONHOME\n"
        f"export PYTHONPATH=/{HOME}/packages PYTHONDONTWRITEBYTECODE=1\n{library}"
        f'exec {interpreter} -s -m rebalancer "$@"\n'
    )
    command = root / "usr/bin/rebalancer"
    command.parent.mkdir(parents=True)
    command.write_text(text, encoding="utf-8")
    command.chmod(0o755)


def manual(version: str) -> str:
    """Write rebalancer(8): every command with its options, as `--help` has them."""
    from rebalancer.service.cli import app_for

    group = typer.main.get_command(app_for())
    lines = [
        f'.TH REBALANCER 8 "" "rebalancer {version}"',
        ".SH NAME",
        r"rebalancer \- policy-driven VM rebalancer for KVM hosts on plain libvirt",
        ".SH SYNOPSIS",
        ".B rebalancer\n.I COMMAND\n[\\fIOPTION\\fR ...]",
        ".SH DESCRIPTION",
        _roff(group.help or ""),
        ".SH COMMANDS",
    ]
    for name, command in _commands(group, ()):
        lines += [".TP", f".B {_roff(name)}", _roff((command.help or "").replace("\n", " "))]
        for option in command.params:
            if option.name != "help" and getattr(option, "help", None):
                said = ", ".join((*option.opts, *option.secondary_opts))
                lines += [".RS", ".TP", f".B {_roff(said)}", _roff(option.help), ".RE"]
    lines += [
        ".SH FILES",
        ".TP\n.I /etc/rebalancer/rebalancer.yaml\nSettings.",
        ".TP\n.I /var/lib/rebalancer/journal.db\nWhat was done, and what was not finished.",
        ".TP\n.I /usr/share/doc/rebalancer\nSettings and policies explained, and policies to copy.",
        ".SH SEE ALSO",
        ".BR virsh (1)",
    ]
    return "\n".join(lines) + "\n"


# The classes of commands are not public, as typer brings its own copy of click.
def _commands(group: Any, before: tuple[str, ...]) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*before, name))
        else:
            yield " ".join((*before, name)), command


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(
        f"\\&{line}" if line.startswith((".", "'")) else line
        for line in (each.strip() for each in escaped.splitlines())
        if line
    )


def depends(root: Path, work: Path, *, bundled: bool) -> str:
    """Ask dpkg which packages have the libraries that ours are linked with."""
    (work / "debian").mkdir(parents=True, exist_ok=True)
    (work / "debian" / "control").write_text(
        f"Source: {PROGRAM}\n\nPackage: {PROGRAM}\nArchitecture: any\n", encoding="utf-8"
    )
    binaries = [path for path in root.rglob("*") if path.is_file() and _is_elf(path)]
    folders = sorted({f"-l{path.parent}" for path in binaries if ".so" in path.name})
    command = ["dpkg-shlibdeps", "-O", "--ignore-missing-info", "--warnings=0", *folders]
    said = subprocess.run(
        [*command, *(f"-e{path}" for path in binaries)],
        cwd=work,
        check=False,
        capture_output=True,
        text=True,
    )
    if said.returncode != 0:
        raise SystemExit(f"dpkg-shlibdeps: {said.stderr.strip()}")
    found = next(
        line.split("=", 1)[1] for line in said.stdout.splitlines() if line.startswith("shlibs:")
    )
    major, minor = sys.version_info[:2]
    own = "" if bundled else f", python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1})"
    return f"{found}{own}, passwd"


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def build(out: Path, work: Path, extras: Sequence[str], *, compiles: bool) -> Path:
    """Make the package, and return where it is."""
    from rebalancer import __version__

    shutil.rmtree(work, ignore_errors=True)
    root = work / "root"
    bundled = Path(sys.base_prefix) != Path("/usr")
    copy_packages(root / HOME / "packages", extras)
    interpreter = copy_interpreter(root / HOME / "python") if bundled else "/usr/bin/python3"
    write_command(root, interpreter, bundled=bundled)
    if compiles:
        # The daemon's user cannot write there. The file on disk is the one that was compiled.
        compileall.compile_dir(
            root / HOME,
            quiet=2,
            workers=os.cpu_count() or 1,
            stripdir=str(root),
            invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
        )
    units = ["make", "--silent", "install-units", f"DESTDIR={root}", "PREFIX=/usr"]
    subprocess.run(units, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    settings = root / "etc/rebalancer/rebalancer.yaml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(ROOT / "config" / "rebalancer.yaml", settings)
    pages = root / "usr/share/doc/rebalancer"
    for page in (*(ROOT / "docs").glob("*.md"), ROOT / "README.md"):
        shutil.copy2(page, pages / page.name)
    own = root / "usr/share/doc" / PROGRAM
    own.mkdir(parents=True)
    shutil.copy2(ROOT / "LICENSE", own / "copyright")
    _zipped(own / "changelog.gz", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    page = root / "usr/share/man/man8/rebalancer.8.gz"
    page.parent.mkdir(parents=True)
    _zipped(page, manual(__version__))
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    return _packed(root, work, out, __version__, bundled=bundled)


def _zipped(path: Path, text: str) -> None:
    with path.open("wb") as file, GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as zipped:
        zipped.write(text.encode())


def _packed(root: Path, work: Path, out: Path, version: str, *, bundled: bool) -> Path:
    said = subprocess.run(
        ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
    )
    architecture = said.stdout.strip()
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    values = {
        "VERSION": version,
        "ARCHITECTURE": architecture,
        "MAINTAINER": os.environ.get("DEBEMAIL", "root <root@localhost>"),
        "SIZE_KIB": str(size // 1024),
        "DEPENDS": depends(root, work, bundled=bundled),
    }
    text = (ROOT / "debian" / "control.in").read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    meta = root / "DEBIAN"
    meta.mkdir(mode=0o755)
    (meta / "control").write_text(text, encoding="utf-8")
    shutil.copy2(ROOT / "debian" / "conffiles", meta / "conffiles")
    for script in SCRIPTS:
        shutil.copy2(ROOT / "debian" / script, meta / script)
        (meta / script).chmod(0o755)
    out.mkdir(parents=True, exist_ok=True)
    package = out / f"{PROGRAM}_{version}_{architecture}.deb"
    squeeze = os.environ.get("DEB_COMPRESSION", "xz")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", f"-Z{squeeze}", "--build", str(root), str(package)],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", "0")},
    )
    return package


def main() -> int:
    """Make the package."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "deb")
    parser.add_argument("--extras", default="libvirt,prometheus,postgresql,redfish")
    parser.add_argument("--no-compile", action="store_true", help="leave byte code out")
    given = parser.parse_args()
    for tool in ("dpkg-deb", "dpkg-shlibdeps", "make"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not installed: apt-get install dpkg-dev make")
    extras = [extra for extra in given.extras.split(",") if extra]
    print(build(given.out, given.work.resolve(), extras, compiles=not given.no_compile))
    return 0


if __name__ == "__main__":
    sys.exit(main())
