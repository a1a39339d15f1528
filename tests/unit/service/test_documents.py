from __future__ import annotations

import re
from pathlib import Path

import pytest

from rebalancer.cluster.plan import MigrationState
from rebalancer.errors import ExitCode
from rebalancer.service import cli_document

ROOT = Path(__file__).parents[3]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]

    broken = [
        target
        for target in targets
        if target and "://" not in target and not (page.parent / target).exists()
    ]

    assert broken == []


def test_every_exit_code_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("## Exit codes")[1].split("##")[0]
    codes = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.M) for code in row.split(",")
    }

    assert codes == {code.value for code in ExitCode}


def test_every_end_of_a_migration_is_in_the_concepts() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")

    assert [state for state in MigrationState if str(state) not in text] == []


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = [int(page.name[:4]) for page in PAGES if page.parent.name == "decisions"]

    assert numbers == list(range(1, len(numbers) + 1))


def test_the_page_about_the_command_line_is_fresh() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")

    assert page == cli_document.document(), (
        "run: python -m rebalancer.service.cli_document > docs/cli.md"
    )


def test_every_option_and_argument_says_what_it_is() -> None:
    page = cli_document.document()

    assert re.findall(r"^\| `.*` \|  \|$", page, re.M) == []
