"""What is wrong in a file is told once, with what was written there."""

import json
from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, Field

from rebalancer.errors import InvalidFileError
from rebalancer.files import FileModel, parse_json_text


def test_a_list_with_a_bad_entry_is_not_also_too_short() -> None:
    class Hours(FileModel):
        schema_version: Literal[1] = 1
        days: Annotated[tuple[Literal["mon", "tue"], ...], Field(min_length=1)] = ("mon",)

    def faults(days: object) -> list[str]:
        with pytest.raises(InvalidFileError) as caught:
            parse_json_text(json.dumps({"schema_version": 1, "days": days}), Hours, "x.json")
        return [str(fault) for fault in caught.value.faults]

    assert faults(["mno"]) == ['x.json: $.days[0]: "mno" is not known here; did you mean "mon"?']
    assert faults([]) == ["x.json: $.days: a list is too short; expected 1 or more entries"]


@pytest.mark.parametrize(
    ("value", "said", "fault"),
    [
        ("9pm", "is not a time of day", '"9pm" is not a time of day'),
        ("ssh:/root@h1", "is not a URI", '"ssh:/root@h1" is not a URI'),
        ("seriall", "expected serial", '"seriall" is not right; expected serial'),
        ("db//me:hush@db1", "is not an address", "is not an address"),
        ("me:hush@db1", "expected an address", "is not right; expected an address"),
        ("db:///x?password=hush", "is not an address", "is not an address"),
    ],
)
def test_what_a_rule_of_ours_refuses_is_quoted_unless_it_may_be_secret(
    value: str, said: str, fault: str
) -> None:
    def refuse(text: str) -> str:
        raise ValueError(said)

    class Refused(FileModel):
        schema_version: Literal[1] = 1
        what: Annotated[str, AfterValidator(refuse)] = ""

    with pytest.raises(InvalidFileError) as caught:
        parse_json_text(json.dumps({"schema_version": 1, "what": value}), Refused, "x.json")

    assert [str(each) for each in caught.value.faults] == [f"x.json: $.what: {fault}"]
