"""How every file enters the program, whatever is in it.

`read_yaml` and `read_json` take a path and the model of what the file should hold, and return the
model or raise `InvalidFileError` with everything that is wrong, each with its line or path and
what would be right. A missing file, a binary one, one of another version and one that would fill
the memory are told in the same way. What the values mean to a cluster is not known here.

`open_yaml` and `open_json` stop before the model, for those who check more than a model can, and
want to name the place of what they find. `explain` does the same for values that come from
elsewhere, such as the environment.

`write_text` is the way out: what an operator names is written whole or not at all, and a pipe or
device is written to and not replaced.
"""

from rebalancer.files.document import Document
from rebalancer.files.explain import NO_CONTROL_CHARACTERS, explain
from rebalancer.files.quantities import (
    ByHour,
    Bytes,
    BytesPerSecond,
    Cores,
    Price,
    PriceByHour,
    Ratio,
    Seconds,
)
from rebalancer.files.reading import (
    FileModel,
    open_json,
    open_yaml,
    parse_json_text,
    parse_yaml_text,
    read_json,
    read_table_text,
    read_yaml,
)
from rebalancer.files.tree import Finding, Tree, dotted, shown
from rebalancer.files.writing import write_text

__all__ = [
    "NO_CONTROL_CHARACTERS",
    "ByHour",
    "Bytes",
    "BytesPerSecond",
    "Cores",
    "Document",
    "FileModel",
    "Finding",
    "Price",
    "PriceByHour",
    "Ratio",
    "Seconds",
    "Tree",
    "dotted",
    "explain",
    "open_json",
    "open_yaml",
    "parse_json_text",
    "parse_yaml_text",
    "read_json",
    "read_table_text",
    "read_yaml",
    "shown",
    "write_text",
]
