"""A file is read whole or refused with everything that is wrong in it, wherever it comes from."""

import json
import os
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, Field, model_validator

from rebalancer.errors import ExitCode, InvalidFileError
from rebalancer.files import (
    Bytes,
    FileModel,
    Ratio,
    open_json,
    open_yaml,
    parse_json_text,
    parse_yaml_text,
    read_json,
    read_yaml,
)


class State(StrEnum):
    UP = "up"
    DRAINING = "draining"


class Balance(FileModel):
    goal: Literal["balance"]
    tier: int = 1
    weight: float = 1.0
    resources: dict[str, float] = {}


class Power(FileModel):
    goal: Literal["power"]
    tier: int = 1
    min_awake: Annotated[int, Field(ge=1)] = 2


class Disk(FileModel):
    path: str
    size: Bytes


class Network(FileModel):
    bridge: str
    vlan: int = 0


type Goal = Annotated[Balance | Power, Field(discriminator="goal")]


class Thing(FileModel):
    """Has one of everything that policies, scenarios and snapshots are made of."""

    schema_version: Literal[1, 2]
    name: Annotated[str, Field(min_length=1)] = "thing"
    site: str | list[str] | None = None
    goals: tuple[Goal, ...] = ()
    devices: list[Disk | Network] = []
    labels: dict[str, str] = {}
    memory_bytes: Annotated[int, Field(ge=0, le=2**50)] = 0
    cores: Annotated[float, Field(le=1024)] = 0
    movable: bool = True
    state: State = State.UP
    headroom: Ratio = 0
    reserve: Bytes | Literal["auto"] = 0
    taken_at: AwareDatetime | None = None
    first: int = 0
    last: int = 0

    @model_validator(mode="after")
    def _is_in_order(self) -> "Thing":
        if self.last < self.first:
            raise ValueError("last comes before first")
        return self


def yaml_faults(text: str | bytes) -> list[str]:
    with pytest.raises(InvalidFileError) as caught:
        parse_yaml_text(text, Thing, file="x.yaml")
    return str(caught.value).splitlines()


def json_faults(text: str | bytes) -> list[str]:
    with pytest.raises(InvalidFileError) as caught:
        parse_json_text(text, Thing, file="x.json")
    return str(caught.value).splitlines()


def faults_of(content: object) -> list[str]:
    return json_faults(json.dumps({"schema_version": 1, **dict(content)}))  # type: ignore[call-overload]


class TestWhatIsRight:
    def test_yaml_becomes_the_model(self) -> None:
        thing = parse_yaml_text(
            """
            schema_version: 1
            name: two sites
            site: [tokyo, osaka]
            goals:
              - {goal: balance, tier: 2, resources: {cpu: 1, memory: .3}}
              - goal: power
            devices: [{path: /dev/vda, size: 10GiB}, {bridge: br0}]
            headroom: 10%
            reserve: auto
            taken_at: "2026-11-23T00:00:00Z"
            """,
            Thing,
        )

        assert thing.site == ["tokyo", "osaka"]
        assert thing.goals == (
            Balance(goal="balance", tier=2, resources={"cpu": 1, "memory": 0.3}),
            Power(goal="power"),
        )
        assert thing.devices == [Disk(path="/dev/vda", size=10 * 2**30), Network(bridge="br0")]
        assert (thing.headroom, thing.reserve) == (0.1, "auto")
        assert thing.taken_at is not None

    def test_json_and_yaml_of_the_same_content_become_the_same_model(self) -> None:
        text = '{"schema_version": 2, "name": "é", "state": "draining", "cores": 1.5, "site": null}'

        assert parse_json_text(text, Thing) == parse_yaml_text(text, Thing)

    def test_a_byte_order_mark_does_no_harm(self) -> None:
        text = b'\xef\xbb\xbf{"schema_version": 1}'

        assert parse_json_text(text, Thing) == parse_yaml_text(text, Thing)

    @pytest.mark.parametrize("word", ["no", "yes", "on", "off", "y", "n", "NO", "12:30", "1_000"])
    def test_a_site_called_no_stays_a_word(self, word: str) -> None:
        assert parse_yaml_text(f"schema_version: 1\nsite: {word}", Thing).site == word

    def test_a_date_without_quotes_stays_text(self) -> None:
        assert parse_yaml_text("schema_version: 1\nsite: 2026-11-23", Thing).site == "2026-11-23"

    def test_keys_are_words_whatever_they_look_like(self) -> None:
        labels = parse_yaml_text("schema_version: 1\nlabels: {1: a, true: b, no: c}", Thing).labels

        assert labels == {"1": "a", "true": "b", "no": "c"}

    @pytest.mark.parametrize(
        ("written", "number"),
        [("7", 7), ("-0", 0), ("+7", 7), ("0x1F", 31), ("0o17", 15), ("010", 10)],
    )
    def test_whole_numbers_are_those_of_yaml_1_2(self, written: str, number: int) -> None:
        text = f"schema_version: 1\nmemory_bytes: {written}"

        assert parse_yaml_text(text, Thing).memory_bytes == number

    @pytest.mark.parametrize("written", ["1e3", "1000.", "1.0e+3", "+1000.0", "1000"])
    def test_numbers_are_those_of_yaml_1_2(self, written: str) -> None:
        assert parse_yaml_text(f"schema_version: 1\ncores: {written}", Thing).cores == 1000

    def test_quotes_and_the_tag_str_make_text_of_anything(self) -> None:
        text = "schema_version: 1\nlabels: {a: '1', b: !!str 2, c: \"true\", d: ! 3}"

        assert parse_yaml_text(text, Thing).labels == {"a": "1", "b": "2", "c": "true", "d": "3"}

    def test_anchors_save_typing(self) -> None:
        text = """
            schema_version: 1
            labels: {app: &app db, *app : other}
            goals: [{goal: balance, tier: &two 2}, {goal: power, tier: *two}]
            """

        thing = parse_yaml_text(text, Thing)

        assert thing.labels == {"app": "db", "db": "other"}
        assert [goal.tier for goal in thing.goals] == [2, 2]


class TestPlaceAndWording:
    def test_every_fault_is_told_at_once_in_the_order_of_the_lines(self) -> None:
        faults = yaml_faults(
            "schema_version: 1\n"
            "name: 12\n"
            "goals:\n"
            "  - goal: balance\n"
            "    wieght: 1\n"
            "    resources:\n"
            "      cpu: much\n"
            "  - {goal: pover}\n"
            "  - tier: 3\n"
            "headroom: 120%\n"
            "cores: .nan\n"
            "state: asleep\n"
            "zone: 1\n"
        )

        assert faults == [
            'x.yaml:2: name: 12 is not text; write "12"',
            'x.yaml:5: goals[0].wieght: unknown key; did you mean "weight"?',
            'x.yaml:7: goals[0].resources.cpu: "much" is not a number',
            'x.yaml:8: goals[1].goal: "pover" is not known here; did you mean "power"?',
            "x.yaml:9: goals[2].goal: this key is missing",
            'x.yaml:10: headroom: "120%" is too large for a ratio; '
            "expected a number from 0 to 1, or a percentage such as 70%",
            "x.yaml:11: cores: not a finite number",
            'x.yaml:12: state: "asleep" is not known here; expected up, draining',
            "x.yaml:13: zone: unknown key; expected cores, devices, first, goals, headroom, "
            "labels, last, memory_bytes, movable, name, reserve, schema_version, …",
        ]

    def test_json_faults_are_told_with_their_path(self) -> None:
        faults = json_faults(
            '{"schema_version": 1, "goals": [{"goal": "power", "min_awake": 0}],'
            ' "labels": {"a b": 3}, "cores": -Infinity, "movable": "yes", "naem": "x"}'
        )

        assert sorted(faults) == [
            "x.json: $.cores: not a finite number",
            "x.json: $.goals[0].min_awake: 0 is too small; expected 1 or more",
            'x.json: $.labels["a b"]: 3 is not text; write "3"',
            'x.json: $.movable: "yes" is not true or false',
            'x.json: $.naem: unknown key; did you mean "name"?',
        ]

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            ({"memory_bytes": True}, "$.memory_bytes: true is not a whole number"),
            (
                {"memory_bytes": "64GB"},
                '$.memory_bytes: "64GB" is not a whole number; expected digits alone, without a '
                "unit and without quotes",
            ),
            ({"memory_bytes": 1.5}, "$.memory_bytes: 1.5 is not a whole number"),
            ({"memory_bytes": -1}, "$.memory_bytes: -1 is too small; expected 0 or more"),
            ({"cores": 2000}, "$.cores: 2000 is too large; expected 1024 or less"),
            ({"cores": None}, "$.cores: has no value; expected a number"),
            ({"name": ""}, '$.name: "" is too short; expected 1 or more characters'),
            ({"labels": []}, "$.labels: a list is not a mapping of keys"),
            ({"goals": {}}, "$.goals: a mapping is not a list"),
            ({"goals": [3]}, "$.goals[0]: 3 is not a mapping of keys"),
            ({"goals": [{"goal": None}]}, "$.goals[0].goal: has no value; expected balance, power"),
            ({"state": None}, "$.state: has no value; expected up, draining"),
            ({"first": 3, "last": 2}, "last comes before first"),
            ({"taken_at": 5}, "$.taken_at: 5 is not a date and time in quotes"),
            (
                {"taken_at": "2026-01-01T00:00:00"},
                '$.taken_at: "2026-01-01T00:00:00" is not right; it should have timezone info',
            ),
        ],
    )  # fmt: skip
    def test_a_fault_says_what_would_be_right(self, content: object, fault: str) -> None:
        assert faults_of(content) == [f"x.json: {fault}"]

    def test_the_branches_of_a_union_are_told_as_one(self) -> None:
        assert faults_of({"site": 3}) == ["x.json: $.site: 3 is not text or a list"]
        assert faults_of({"reserve": "aut"}) == [
            "x.json: $.reserve: \"aut\" is not a size or 'auto'"
        ]

    def test_of_a_union_the_branch_that_comes_nearest_is_told(self) -> None:
        assert faults_of({"site": ["a", 1]}) == ['x.json: $.site[1]: 1 is not text; write "1"']
        assert faults_of({"devices": [{"bridge": "br0", "vlna": 1}]}) == [
            'x.json: $.devices[0].vlna: unknown key; did you mean "vlan"?'
        ]
        assert faults_of({"devices": [7]}) == ["x.json: $.devices[0]: 7 is not a mapping of keys"]

    def test_a_key_that_is_written_twice_is_a_fault(self) -> None:
        assert yaml_faults("schema_version: 1\nname: a\nlabels: {x: a, x: b}\nname: b") == [
            "x.yaml:3: labels.x: this key is here twice; the first is in line 3",
            "x.yaml:4: name: this key is here twice; the first is in line 2",
        ]
        assert json_faults('{"schema_version":1,"labels":{"x":"a","x":"b"}}') == [
            "x.json: $.labels.x: this key is here twice"
        ]

    def test_no_fault_writes_to_the_terminal_what_the_file_says(self) -> None:
        faults = faults_of({"\x1b[31m\n": 1, "name": 5, "state": "\x9b2J\u202e" + "x" * 1000})

        assert all(line.isprintable() for line in faults)
        assert all(len(line) < 300 for line in faults)

    def test_a_fault_that_no_model_finds_can_be_given_its_place(self, tmp_path: Path) -> None:
        file = tmp_path / "x.yaml"
        file.write_text("schema_version: 1\nlabels:\n  app: db\n")

        document = open_yaml(file)

        assert document.read(Thing).labels == {"app": "db"}
        assert str(document.fault(("labels", "app"), "nobody has this label")) == (
            f"{file}:3: labels.app: nobody has this label"
        )


class TestVersion:
    def test_a_missing_version_is_told_with_everything_else(self) -> None:
        assert yaml_faults("name: a\nnaem: b") == [
            'x.yaml:1: schema_version: this key is missing; add "schema_version: 2"',
            'x.yaml:2: naem: unknown key; did you mean "name"?',
        ]

    @pytest.mark.parametrize("version", ["3", "0", "true", '"1"', "null", "1.0", "[]"])
    def test_of_an_unknown_version_nothing_else_is_said(self, version: str) -> None:
        faults = json_faults(f'{{"schema_version": {version}, "naem": 3}}')

        assert len(faults) == 1
        assert faults[0].startswith("x.json: $.schema_version: version ")
        assert faults[0].endswith("is not known; this rebalancer reads version 1, 2")


class TestWhatIsNotYaml:
    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("", "x.yaml: the file is empty"),
            (" \n\n", "x.yaml: the file is empty"),
            ("# only a comment\n", "x.yaml: the file is empty"),
            ("- a\n", "x.yaml: a list is not a mapping of keys"),
            ("just words", 'x.yaml: "just words" is not a mapping of keys'),
            ("a:\n\tb: 1\n", "x.yaml:2: a tab in the indentation; YAML allows spaces only"),
            ("a: 1\nb: \x07\n", 'x.yaml:2: holds a character that is not text: "\\u0007"'),
            ("é: 1\n\nb: \x00", 'x.yaml:3: holds a character that is not text: "\\u0000"'),
            ("a: 1\n---\nb: 2\n", "x.yaml:2: a second YAML document starts here; a file holds one"),
            ("a: *b\n", "x.yaml:1: *b has no &b above it"),
            ("a: &a\n  b: *a\n", "x.yaml:2: *a is inside of what it stands for"),
            (
                "a: {b: 1}\nc:\n  <<: *a\n",
                "x.yaml:3: merge keys (<<) are not supported; write out what they would bring in",
            ),
            ("? [a, b]\n: c\n", "x.yaml:1: a key has to be a word, not a mapping or a list"),
            ("a: &a {}\n*a : b\n", "x.yaml:2: a key has to be a word"),
            ("!int 3\n", 'x.yaml:1: the tag "!int" is not supported; leave it out'),
            (b"a: \xff\n", "x.yaml:1: not text in UTF-8"),
            ("schema_version: 1".encode("utf-16"), "x.yaml:1: not text in UTF-8"),
        ],
    )
    def test_it_is_told_in_one_line(self, text: str | bytes, fault: str) -> None:
        assert yaml_faults(text) == [fault]

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("a: 1\n  b: 2\n", 2),
            ("a: [1,\n", 1),
            ("a: 'x\n", 1),
            ("a: 1\nb\n\nc: 2", 2),
            ("a: @b", 1),
            ("a: [1\nb: 2\n", 2),
            ("a:\n  - b\n c: 1\n", 3),
            ("a: {\n" + "  b: 1,\n" * 5, 6),
        ],
    )
    def test_bad_syntax_is_told_with_its_line(self, text: str, line: int) -> None:
        (fault,) = yaml_faults(text)

        assert fault.startswith(f"x.yaml:{line}: not valid YAML: ")

    @pytest.mark.parametrize("tag", ["!!int", "!!binary", "!!python/object/apply:os.system"])
    def test_tags_cannot_make_anything_but_text(self, tag: str) -> None:
        (fault,) = yaml_faults(f"a: {tag} [id]")

        assert fault.endswith(f':{tag[2:]}" is not supported; leave it out')

    @pytest.mark.parametrize(
        "number", [".inf", "-.INF", ".NaN", "1e999", "9" * 400, "1" * 290 + "e300"]
    )
    def test_numbers_are_finite(self, number: str) -> None:
        faults = yaml_faults(f"schema_version: 1\nlabels: {{}}\ncores: {number}")

        assert faults == ["x.yaml:3: cores: not a finite number"]

    def test_nesting_has_an_end(self) -> None:
        assert yaml_faults("[" * 100_000) == ["x.yaml:1: nested deeper than 64 levels"]
        assert yaml_faults("".join(" " * i + "a:\n" for i in range(100))) == [
            "x.yaml:65: nested deeper than 64 levels"
        ]


class TestWhatIsNotJson:
    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("", "x.json: the file is empty"),
            ("[]", "x.json: a list is not a mapping of keys"),
            ("null", "x.json: the file is empty"),
            (
                '{"a": "b',
                "x.json:1:7: not valid JSON: Unterminated string starting at; "
                "the file seems to be cut short",
            ),
            ('{\n"a": nope}', "x.json:2:6: not valid JSON: Expecting value"),
            ('{"a": 1} x', "x.json:1:10: not valid JSON: Extra data"),
            ('{"a": ' + "9" * 5000 + "}", "x.json: holds a number of more than 4,300 digits"),
            (b'{"a": "\xff"}', "x.json:1: not text in UTF-8"),
            (b"PK\x03\x04\xde\xad\xbe\xef", "x.json:1: not text in UTF-8"),
        ],
    )
    def test_it_is_told_in_one_line(self, text: str | bytes, fault: str) -> None:
        assert json_faults(text) == [fault]

    @pytest.mark.parametrize("kept", [1, 10, 20, 30, 39])
    def test_a_file_that_was_cut_short_is_recognised(self, kept: int) -> None:
        (fault,) = json_faults('{"schema_version": 1, "labels": {"a":1}}'[:kept] + "\n")

        assert "x.json:" in fault
        assert fault.endswith("the file seems to be cut short")

    def test_half_a_character_is_refused(self) -> None:
        (fault,) = json_faults('{"schema_version": 1, "name": "\\ud800"}')

        assert fault.startswith("x.json: not valid JSON: ")

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
    def test_numbers_are_finite(self, number: str) -> None:
        faults = json_faults(
            f'{{"schema_version": 1, "goals": [{{"goal": "power", "tier": {number}}}]}}'
        )

        assert faults == ["x.json: $.goals[0].tier: not a finite number"]

    @pytest.mark.parametrize("depth", [100, 1000, 100_000])
    def test_nesting_has_an_end(self, depth: int) -> None:
        assert "x.json: nested deeper than 64 levels" in json_faults(
            '{"a":' * depth + "1" + "}" * depth
        )


class TestFilesOnDisk:
    @pytest.mark.parametrize("read", [read_yaml, read_json])
    def test_a_file_is_read(self, tmp_path: Path, read: Callable[..., Thing]) -> None:
        (tmp_path / "x").write_text('{"schema_version": 1, "name": "disk"}')

        assert read(tmp_path / "x", Thing).name == "disk"
        assert read(str(tmp_path / "x"), Thing).name == "disk"

    @pytest.mark.parametrize("read", [read_yaml, read_json])
    def test_what_cannot_be_opened_is_told_with_its_path(
        self, tmp_path: Path, read: Callable[..., Thing]
    ) -> None:
        (tmp_path / "hotspot.yaml").write_text("")
        (tmp_path / "loop").symlink_to("loop")

        def fault_of(name: str) -> str:
            with pytest.raises(InvalidFileError) as caught:
                read(tmp_path / name, Thing)
            assert caught.value.exit_code == ExitCode.INVALID_FILE
            return str(caught.value).replace(f"{tmp_path}/", "")

        assert fault_of("nothing") == "nothing: no such file"
        assert fault_of("hotspt.yaml") == (
            'hotspt.yaml: no such file; did you mean "hotspot.yaml"?'
        )
        assert fault_of("no/where") == "no/where: no such file"
        assert fault_of("hotspot.yaml") == "hotspot.yaml: the file is empty"
        assert fault_of("hotspot.yaml/x") == "hotspot.yaml/x: cannot be read: Not a directory"
        assert fault_of("loop").startswith("loop: cannot be read: Too many levels of symbolic")
        assert fault_of("x" * 300).endswith("cannot be read: File name too long")
        assert fault_of("a\0b").endswith("cannot be read: embedded null byte")
        assert fault_of("..").endswith("this is a directory, not a file")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_of_somebody_else_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "x.yaml").touch(mode=0o000)

        with pytest.raises(InvalidFileError, match="cannot be read: Permission denied"):
            read_yaml(tmp_path / "x.yaml", Thing)

    def test_a_file_that_never_ends_is_left_alone(self) -> None:
        with pytest.raises(InvalidFileError, match="larger than 4 MiB"):
            read_yaml("/dev/zero", Thing)

    def test_what_is_open_can_be_read_later(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text('{"schema_version": 1, "labels": {"a b": "c"}}')

        document = open_json(tmp_path / "x.json")

        assert document.read(Thing).labels == {"a b": "c"}
        assert document.where(("labels", "a b")) == '$.labels["a b"]'
        assert document.where(()) == ""


class TestSize:
    """Nothing that fits on a disk takes long or fills the memory."""

    def test_a_yaml_bomb_is_refused_before_it_goes_off(self) -> None:
        levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        levels += [
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)
        ]  # fmt: skip

        assert yaml_faults("\n".join(levels)) == [
            "x.yaml:7: more than 1,000,000 values, with what aliases repeat"
        ]

    def test_a_yaml_bomb_of_one_long_text_is_refused_too(self) -> None:
        text = f"a: &a {'x' * 1_000_000}\nb: [{', '.join(['*a'] * 10_000)}]"

        assert yaml_faults(text) == [
            "x.yaml:2: more than 1,000,000 values, with what aliases repeat"
        ]

    @pytest.mark.parametrize(
        "garbage",
        [
            pytest.param(lambda: b"\x93\x81\xfe" * 15_000_000, id="binary"),
            pytest.param(lambda: b"\0" * 50_000_000, id="zeros"),
            pytest.param(lambda: b"lorem ipsum " * 4_000_000, id="words"),
            pytest.param(lambda: b'{"a":' * 10_000_000, id="nesting"),
            pytest.param(lambda: b'{"vms": [' + b"{}," * 15_000_000 + b"{}]}", id="objects"),
            pytest.param(lambda: b'{"vms": [' + b"1," * 25_000_000 + b"1]}", id="numbers"),
            pytest.param(lambda: b'{"labels": {"a": "' + b"x" * 50_000_000, id="text"),
        ],
    )
    def test_a_huge_snapshot_of_garbage_is_refused_at_once(
        self, tmp_path: Path, garbage: Callable[[], bytes]
    ) -> None:
        (tmp_path / "snapshot.json").write_bytes(garbage())
        started = time.process_time()

        with pytest.raises(InvalidFileError) as caught:
            read_json(tmp_path / "snapshot.json", Thing)

        assert len(caught.value.faults) == 1
        assert time.process_time() - started < 20  # of CPU, which differs between machines

    def test_a_large_file_full_of_faults_shows_the_first(self) -> None:
        goals = [{"goal": "power"}] * 300 + [{"goal": "power", "min_awak": 1}] * 40_000

        faults = faults_of({"goals": goals})

        assert faults[0] == (
            'x.json: $.goals[300].min_awak: unknown key; did you mean "min_awake"?'
        )
        assert faults[-1] == "… and more: the rest of the file was not checked"

    def test_a_large_file_with_few_faults_shows_them_all(self) -> None:
        goals = [{"goal": "power"}] * 40_000
        goals[5] = {"goal": "pover"}
        goals[39_999] = {}

        assert faults_of({"goals": goals, "labels": {str(n): "x" for n in range(80_000)}}) == [
            'x.json: $.goals[5].goal: "pover" is not known here; did you mean "power"?',
            "x.json: $.goals[39999].goal: this key is missing",
        ]

    def test_a_snapshot_of_a_thousand_hosts_is_read_in_seconds(self) -> None:
        device = {"path": "/var/lib/libvirt/images/some-longer-name.qcow2", "size": 10_737_418_240}
        goal = {"goal": "balance", "resources": {f"resource-{n}": n + 0.25 for n in range(20)}}
        content = {"schema_version": 1, "devices": [device] * 80_000, "goals": [goal] * 20_000}
        text = json.dumps(content)
        assert len(text) > 15_000_000
        started = time.process_time()

        thing = parse_json_text(text, Thing)

        assert len(thing.devices) == 80_000
        assert time.process_time() - started < 20


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*Thing.model_fields, *Balance.model_fields, "x"]), inner)
    ),
    max_leaves=20,
)
PIECES = (
    *("schema_version", "goals", "name", "1", "~", "é", ".nan", ": ", "- ", "? ", ", ", "\n", "  "),
    *("{", "}", "[", "]", "&a ", "*a", "!!str ", "! ", "|\n", ">", "'", '"', "#", "\t", "<<"),
    *("---\n", "...", "%YAML 1.2\n", "\\", "\0", "\ud800"),
)
nearly_a_file = st.lists(st.sampled_from(PIECES)).map("".join)


def outcome(read: Callable[..., Thing], text: str | bytes) -> Thing | InvalidFileError:
    try:
        return read(text, Thing)
    except InvalidFileError as error:
        return error


def places(error: InvalidFileError) -> list[tuple[str, str]]:
    return sorted((fault.key, fault.problem) for fault in error.faults)


class TestAnythingAtAll:
    @pytest.mark.parametrize("read", [parse_yaml_text, parse_json_text])
    @given(text=st.text() | st.binary() | nearly_a_file)
    def test_any_text_is_read_or_refused_in_plain_words(
        self, read: Callable[..., Thing], text: str | bytes
    ) -> None:
        result = outcome(read, text)

        if isinstance(result, InvalidFileError):
            assert all(line.isprintable() for line in str(result).splitlines())

    @given(st.dictionaries(st.sampled_from(list(Thing.model_fields)), plain_values))
    def test_any_content_is_read_or_refused_alike_in_both_formats(
        self, content: dict[str, object]
    ) -> None:
        text = json.dumps({"schema_version": 1, **content})

        from_json = outcome(parse_json_text, text)
        from_yaml = outcome(parse_yaml_text, text)

        if isinstance(from_json, InvalidFileError):
            assert isinstance(from_yaml, InvalidFileError)
            assert places(from_json) == places(from_yaml)
        else:
            assert from_json == from_yaml

    @given(st.integers(0, 8), st.integers(0, 8))
    def test_the_line_of_a_fault_is_the_line_of_its_key(self, before: int, between: int) -> None:
        text = "schema_version: 1\n" + "\n" * before + "labels:\n" + "\n" * between + "  a: [1]\n"

        (fault,) = yaml_faults(text)

        assert fault == f"x.yaml:{3 + before + between}: labels.a: a list is not text"
