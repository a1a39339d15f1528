"""What a report consists of, whatever it is about, and how that looks on a screen or in a page.

`report` makes blocks of plans and outcomes; nothing in here knows what they mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console
from rich.text import Text

from rebalancer.service.wording import one_line

BAR_CELLS = 16
_LEAST_PROSE = 24
"""Sentences are not squeezed into less than this beside other columns."""
_UNLIMITED = 1_000_000
_GAP = 2
_INDENT = " " * 4
_EIGHTHS = " ▏▎▍▌▋▊▉"
_ASCII = str.maketrans(
    {"→": "->", "─": "-", "…": "...", "≤": "<=", "≥": ">=", "−": "-", "█": "#", "·": ".", "—": "-"}
    | {"–": "-", "✓": "ok", "µ": "u", "×": "x", "Σ": "sum"}
    | dict.fromkeys("▏▎▍▌", "") | dict.fromkeys("▋▊▉", "#")
)  # fmt: skip


class Tone(StrEnum):
    """How a line or cell is meant; colour only repeats what the words say."""

    PLAIN = ""
    GOOD = "green"
    WARN = "yellow"
    BAD = "bold red"
    STRONG = "bold"
    DIM = "dim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A paragraph of one line."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Lines to be copied into a shell, never wrapped."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table."""

    title: str
    right: bool = False
    """Numbers are aligned to the right."""
    prose: bool = False
    """Sentences: wrapped when the screen is narrow, below the row when it is very narrow. Only
    the last column can be."""
    minor: bool = False
    """It goes below the row, too, when there is no room for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A cell that draws a ratio: `█████████▏           46 %`."""

    ratio: float
    text: str
    hot: bool = False


type Cell = str | Bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under a heading."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    more: str = ""
    """What was left out: `180 hosts more, unchanged`."""


type Block = Line | Code | Table


def bar_text(ratio: float, cells: int = BAR_CELLS) -> str:
    """Draw a ratio as a bar of exactly `cells` characters; more than 1 is a full bar."""
    eighths = round(min(max(ratio, 0.0), 1.0) * cells * 8) if ratio == ratio else 0
    full, rest = divmod(eighths, 8)
    drawn = "█" * full + (_EIGHTHS[rest] if rest else "")
    return drawn.ljust(cells)


def abridged[Item](items: Sequence[Item], most: int | None) -> tuple[Sequence[Item], int]:
    """The first `most` items and the number left out; it never leaves out just one or two."""
    if most is None or len(items) <= most + 2:
        return items, 0
    return items[:most], len(items) - most


def print_blocks(blocks: Iterable[Block], console: Console) -> None:
    """Print a report on a console.

    On a terminal it keeps within the width as far as it can. In a pipe or file nothing is
    wrapped, so that every row stays one line for `grep` and `awk`.
    """
    previous: Block | None = None
    for block in blocks:
        if isinstance(previous, Table) or (isinstance(block, Table) and previous is not None):
            console.print()
        if isinstance(block, Table):
            print_table(block, console)
        elif isinstance(block, Code):
            for line in block.lines:
                _print(_text(line, console), console)
        else:
            text = _text(block.text, console, block.tone)
            console.print(text, soft_wrap=not console.is_terminal)
        previous = block


def to_markdown(blocks: Iterable[Block]) -> str:
    """Write a report as Markdown; tables become pipe tables, bars their numbers."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def print_table(table: Table, console: Console) -> None:
    """Print a table; cells other than sentences are never cut or wrapped."""
    for line in _table_lines(table, console):
        _print(line, console)


def _table_lines(table: Table, console: Console) -> Iterator[Text]:
    grid = _Grid.of(table, console)
    yield _text(table.title, console, Tone.STRONG)
    yield grid.head()
    yield _text("─" * grid.width, console)
    for row in table.rows:
        yield from grid.lines(row)
    if table.more:
        yield _text(f"… {table.more}", console, Tone.DIM)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """How the columns of one table share the width of the console."""

    console: Console
    columns: tuple[Column, ...]
    beside: tuple[int, ...]
    """Columns, by index, that stand beside each other; the others go below their row."""
    widths: tuple[int, ...]
    """Of the columns beside each other."""
    prose_width: int
    """Room for sentences at the end of a row; 0 where they are unlimited or have none."""

    @classmethod
    def of(cls, table: Table, console: Console) -> _Grid:
        """Find a layout: sentences and minor columns give way when it is too narrow."""
        columns = table.columns
        every = tuple(range(len(columns)))
        solid = tuple(index for index in every if not columns[index].prose)
        major = tuple(index for index in solid if not columns[index].minor)
        widths = tuple(_width(table, index, console) for index in every)
        room = console.width if console.is_terminal else _UNLIMITED
        used = sum(widths[index] + _GAP for index in solid)
        beside = solid if used - _GAP <= room else major
        prose_width = 0
        if len(solid) < len(every) and room - used >= _LEAST_PROSE:
            beside, prose_width = every, room - used if console.is_terminal else 0
        return cls(
            console=console,
            columns=columns,
            beside=beside,
            widths=tuple(widths[index] for index in beside),
            prose_width=prose_width,
        )

    @property
    def width(self) -> int:
        """What the columns beside each other take."""
        taken = sum(self.widths) + _GAP * (len(self.widths) - 1)
        return self.console.width if self.prose_width else taken

    def head(self) -> Text:
        """Lay out the titles of the columns."""
        titles = (self.columns[index].title for index in self.beside)
        return self._line([_text(title, self.console, Tone.STRONG) for title in titles])

    def lines(self, row: Sequence[Cell]) -> Iterator[Text]:
        """Lay out one row, in several lines if need be."""
        cells = [_cell(row[index], self.console) for index in self.beside]
        if self.prose_width:
            first, *rest = cells[-1].wrap(self.console, self.prose_width) or [Text()]
            yield self._line([*cells[:-1], first])
            indent = self.console.width - self.prose_width
            yield from (Text(" " * indent).append(line) for line in rest)
            return
        yield self._line(cells)
        if below := self._below(row):
            room = max(self.console.width - len(_INDENT), _LEAST_PROSE)
            wrapped = _text(below, self.console, Tone.DIM).wrap(self.console, room)
            yield from (Text(_INDENT).append(line) for line in wrapped)

    def _line(self, cells: Sequence[Text]) -> Text:
        line = Text()
        for index, width, cell in zip(self.beside, self.widths, cells, strict=True):
            padding = " " * (width - cell.cell_len)
            line.append(" " * _GAP if line.plain else "")
            if self.columns[index].right:
                line.append(padding).append(cell)
            else:
                line.append(cell).append(padding)
        line.rstrip()
        return line

    def _below(self, row: Sequence[Cell]) -> str:
        """What had no room in the row: minor columns with their titles, then the sentence."""
        below = [index for index in range(len(row)) if index not in self.beside and row[index]]
        minor = [f"{self.columns[i].title} {row[i]}" for i in below if self.columns[i].minor]
        prose = [str(row[i]) for i in below if self.columns[i].prose]
        return "; ".join([", ".join(minor), *prose] if minor else prose)


def _width(table: Table, index: int, console: Console) -> int:
    column = table.columns[index]
    if column.prose:
        return 0
    cells = (_cell(row[index], console).cell_len for row in table.rows)
    return max([_text(column.title, console).cell_len, *cells])


def _print(text: Text, console: Console) -> None:
    console.print(text, soft_wrap=True)


def _cell(cell: Cell, console: Console) -> Text:
    if isinstance(cell, str):
        return _text(cell, console)
    bar = _text(bar_text(cell.ratio), console, Tone.BAD if cell.hot else Tone.GOOD)
    bar.pad_right(BAR_CELLS - bar.cell_len)
    return bar.append(f" {cell.text:>6}", style="")


def _text(text: str, console: Console, tone: Tone = Tone.PLAIN) -> Text:
    # Text and not str: rich would take brackets in a VM's name for its own markup.
    line = one_line(text) if text else text
    # As rich's `options.ascii_only`, which works out much else each time it is asked.
    if not console.encoding.startswith("utf"):
        line = line.translate(_ASCII).encode("ascii", "replace").decode()
    return Text(line, style=tone.value)


def _markdown(block: Block) -> str:
    match block:
        case Line(text=text, tone=Tone.STRONG | Tone.GOOD | Tone.WARN | Tone.BAD):
            return f"**{_escaped(text)}**"
        case Line(text=text):
            return _escaped(text)
        case Code(lines=lines):
            return "\n".join(["```", *lines, "```"])
        case Table():
            return _markdown_table(block)


def _markdown_table(table: Table) -> str:
    heads = " | ".join(_escaped(column.title) or " " for column in table.columns)
    rules = " | ".join("--:" if column.right else "---" for column in table.columns)
    rows = (" | ".join(_markdown_cell(cell) for cell in row) for row in table.rows)
    lines = [f"### {_escaped(table.title)}", ""]
    lines += [f"| {line} |" for line in (heads, rules, *rows)]
    if table.more:
        lines += ["", f"… {_escaped(table.more)}"]
    return "\n".join(lines)


def _markdown_cell(cell: Cell) -> str:
    return _escaped(cell if isinstance(cell, str) else cell.text) or " "


def _escaped(text: str) -> str:
    """Keep Markdown and HTML in foreign text from being taken for ours."""
    line = one_line(text)
    for char in "\\|`*[]<":
        line = line.replace(char, f"\\{char}")
    return line
