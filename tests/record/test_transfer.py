"""Recordings in and out: good rows are kept, every bad one is named, and nothing is read but the file given."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pytest

from workbench.canonical import text_hash
from workbench.errors import LLMValidationError
from workbench.facts import Call, Recorded, Request, Response
from workbench.record.log import Log
from workbench.record.transfer import SCHEMA, Imported, Recordings, import_files

Row = dict[str, Any]

GOOD: Row = {
    "recording": "small", "task_type": "reasoning", "item_id": "i1", "prompt": "2+2?", "reference": "4",
    "model": "m1", "prompt_style": "default", "response": "It is 4.", "score": 1.0, "score_kind": "correct",
    "prompt_tokens": 5, "completion_tokens": 4, "latency_ms": 120.5, "cost_usd": 0.002,
}  # fmt: skip


def import_file(log: Log, file: Path) -> Imported:
    """One file imported alone."""
    return import_files(log, [file])[0]


def row(**changes: Any) -> Row:
    return {**GOOD, **changes}


def parquet(
    path: Path, rows: list[Row], *, types: Mapping[str, str] | None = None, select: str = "*", options: str = ""
) -> Path:
    """A Parquet file of the rows, written by DuckDB; `types` changes columns, `select` what is written."""
    columns = {**SCHEMA, **(types or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as con:
        con.execute("create table t(" + ", ".join(f'"{name}" {kind}' for name, kind in columns.items()) + ")")
        with con.appender("t") as appender:
            appender.append_rows([tuple(values.get(name) for name in columns) for values in rows])
        target = str(path).replace("'", "''")
        con.execute(f"copy (select {select} from t) to '{target}' (format parquet{options})")
    return path


def problems(done: Imported) -> list[tuple[int, str]]:
    """(row, column) of every problem; the counts of the import must add up."""
    assert done.added + done.already + done.rejected == done.rows
    return [(p.row, p.column) for p in done.problems]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.open(tmp_path / "log")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """An empty log, for files that are refused whole."""
    return Log.open(tmp_path_factory.mktemp("untouched"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A log to which several tests add recordings, each of a name of its own."""
    return Log.open(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A recording's name that no other test uses."""
    return f"r{text_hash(request.node.nodeid)}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "small.parquet"


# -- good files


def test_a_good_file_comes_out_as_it_went_in(log: Log, file: Path) -> None:
    """Every value of every row is there again, ordered by item, model and style."""
    rows = [
        row(),
        row(model="m0", response="5", score=0.0),
        row(item_id="i0", prompt="Söme “text”\n", reference=None, response=None, prompt_tokens=None, latency_ms=None),
        row(prompt_style="cot", prompt="2+2? Think.", response="So 4", cost_usd=None, completion_tokens=None),
    ]
    done = import_file(log, parquet(file, rows))
    assert (done.file, done.recordings, done.rows, done.added, done.already) == ("small.parquet", ("small",), 4, 4, 0)
    assert problems(done) == []
    expected = [
        {("task" if name == "task_type" else name): value for name, value in r.items()}
        for r in sorted(rows, key=lambda r: (r["item_id"], r["model"], r["prompt_style"]))
    ]
    assert [asdict(r) for r in Recordings(log).recorded("small")] == expected


def test_the_same_file_again_adds_nothing(log: Log, file: Path) -> None:
    """An import is idempotent: all rows are there already, and no text is stored twice."""
    parquet(file, [row(), row(model="m2"), row(item_id="i2", prompt="3+3?", reference="6")])
    first = import_file(log, file)
    again = import_file(log, file)
    assert (first.added, first.already, again.added, again.already) == (3, 0, 0, 3)
    assert problems(first) == problems(again) == []
    assert log.rows("select count(*), count(distinct hash) from texts") == [(3, 3)]


def test_a_grown_file_adds_its_new_rows(log: Log, tmp_path: Path) -> None:
    """A file with more rows than before adds only these."""
    import_file(log, parquet(tmp_path / "a.parquet", [row()]))
    done = import_file(log, parquet(tmp_path / "b.parquet", [row(model="m0"), row(), row(model="m2")]))
    assert (done.rows, done.added, done.already) == (3, 2, 1)
    assert problems(done) == []


def test_one_file_may_hold_several_recordings(log: Log, file: Path) -> None:
    """Rows go to the recordings that they name; each keeps its own items, models and styles."""
    rows = [row(), row(prompt_style="cot"), row(model="m2"), row(recording="other", item_id="x", prompt="Q")]
    done = import_file(log, parquet(file, rows))
    assert done.recordings == ("other", "small")
    assert Recordings(log).recordings() == [
        {"recording": "other", "items": 1, "rows": 1, "models": [{"model": "m1", "styles": ["default"]}]},
        {
            "recording": "small",
            "items": 1,
            "rows": 3,
            "models": [{"model": "m1", "styles": ["cot", "default"]}, {"model": "m2", "styles": ["default"]}],
        },
    ]


def test_an_unknown_recording_is_refused_with_the_known_ones(log: Log, file: Path) -> None:
    """Asking for a recording that was never imported names those that were."""
    with pytest.raises(LLMValidationError, match="it has none"):
        Recordings(log).recorded("nosuch")
    import_file(log, parquet(file, [row(), row(recording="other")]))
    with pytest.raises(LLMValidationError, match="it has other, small") as caught:
        Recordings(log).recorded("nosuch'; drop table recorded; --")
    assert caught.value.code == "data.recording"


def test_texts_are_shared_with_those_of_calls(log: Log, file: Path) -> None:
    """A recorded text and the same text of a call are one row of `texts`, in either order."""
    request = Request.of("2+2?")
    response = Response(request_key=request.key, model="p:m", text="It is 4.", source="live")
    for n in range(2):
        log.write(
            Call(
                span_id=str(n), trace_id="t", run_id=None, item_id=None, provider="p", model="m", request=request,
                response=response, failure=None, start_unix_ns=1, duration_ms=1.0,
            )
        )  # fmt: skip
        import_file(log, parquet(file, [row(model=f"m{n}")]))
    assert sorted(log.rows("select hash, text from texts")) == sorted(
        (text_hash(text), text) for text in ("2+2?", "It is 4.")
    )


# -- kinds of column


@pytest.mark.parametrize(
    ("types", "changes", "column", "expected"),
    [
        ({"score": "integer"}, {"score": 1}, "score", 1.0),
        ({"score": "boolean"}, {"score": True}, "score", 1.0),
        ({"score": "float"}, {"score": 0.5}, "score", 0.5),
        ({"score": "decimal(9, 3)"}, {"score": 0.125}, "score", 0.125),
        ({"score": "varchar"}, {"score": "0.25"}, "score", 0.25),
        ({"prompt_tokens": "integer"}, {"prompt_tokens": 7}, "prompt_tokens", 7),
        ({"prompt_tokens": "utinyint"}, {"prompt_tokens": 255}, "prompt_tokens", 255),
        ({"prompt_tokens": "double"}, {"prompt_tokens": 7.0}, "prompt_tokens", 7),
        ({"prompt_tokens": "varchar"}, {"prompt_tokens": "7"}, "prompt_tokens", 7),
        ({"latency_ms": "bigint"}, {"latency_ms": 30}, "latency_ms", 30.0),
        ({"item_id": "bigint"}, {"item_id": 12}, "item_id", "12"),
        ({"item_id": "uuid"}, {"item_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12}, "item_id", None),
        ({"model": "enum('m1', 'm2')"}, {"model": "m2"}, "model", "m2"),
        ({"task_type": "enum('reasoning', 'general')"}, {}, "task", "reasoning"),
        ({"response": "varchar"}, {"response": "x" * 3_000_000}, "response", "x" * 3_000_000),
        ({"reference": "integer"}, {"reference": None}, "reference", None),
    ],
    ids=lambda value: ",".join(f"{k} {v}" for k, v in value.items())[:40] if isinstance(value, dict) else "",
)
def test_unusual_parquet_types_are_read(
    shared: Log, name: str, file: Path, types: dict[str, str], changes: Row, column: str, expected: Any
) -> None:
    """A column of another type whose values fit is read as the schema's type."""
    done = import_file(shared, parquet(file, [row(recording=name, **changes)], types=types))
    assert problems(done) == []
    [got] = Recordings(shared).recorded(name)
    assert getattr(got, column) == (expected if expected is not None else changes[column])


def test_a_dictionary_encoded_file_is_read(log: Log, file: Path) -> None:
    """Repeated strings under dictionary encoding, compressed, in many row groups, all arrive."""
    rows = [row(item_id=f"i{n:04}", prompt=f"prompt {n % 3}", reference=str(n % 5)) for n in range(5000)]
    parquet(file, rows, options=", compression zstd, row_group_size 2048")
    done = import_file(log, file)
    assert (done.added, problems(done)) == (5000, [])
    got = Recordings(log).recorded("small")
    assert [(r.item_id, r.prompt) for r in got] == [(f"i{n:04}", f"prompt {n % 3}") for n in range(5000)]


def test_bytes_in_a_text_column_are_text_or_are_refused(log: Log, file: Path) -> None:
    r"""A column of plain bytes is read as UTF-8 or named; it never becomes text such as "\xC3\xA9"."""
    done = import_file(log, parquet(file, [row(prompt="é".encode())], types={"prompt": "blob"}))
    stored = [text for (text,) in log.rows("select text from texts join recorded on hash = prompt_hash")]
    assert stored == ["é"] or problems(done) == [(1, "prompt")]


@pytest.mark.parametrize(
    "extra",
    ["row", "uncast", "file_row_number", "filename", "recording2", "start", "first", "mine", "select", 'a"b', "n"],
)
def test_extra_columns_are_ignored(log: Log, file: Path, extra: str) -> None:
    """Columns that the schema does not know change nothing, whatever they are called."""
    quoted = extra.replace('"', '""')
    done = import_file(log, parquet(file, [row(), row(model="m2")], select=f'*, 7 as "{quoted}"'))
    assert (done.added, problems(done)) == (2, [])


def test_columns_may_stand_in_any_order(log: Log, file: Path) -> None:
    """Columns are found by name."""
    done = import_file(log, parquet(file, [row()], select=", ".join(reversed(list(SCHEMA)))))
    assert (done.added, problems(done)) == (1, [])
    assert Recordings(log).recorded("small")[0].response == "It is 4."


# -- bad rows


RULES: dict[str, tuple[Row, dict[str, str], str]] = {
    "item_id null": ({"item_id": None}, {}, "item_id"),
    "item_id blank": ({"item_id": "  "}, {}, "item_id"),
    "item_id tab": ({"item_id": "\t\n"}, {}, "item_id"),
    "model null": ({"model": None}, {}, "model"),
    "model empty": ({"model": ""}, {}, "model"),
    "style null": ({"prompt_style": None}, {}, "prompt_style"),
    "prompt null": ({"prompt": None}, {}, "prompt"),
    "task unknown": ({"task_type": "chess"}, {}, "task_type"),
    "task null": ({"task_type": None}, {}, "task_type"),
    "task case": ({"task_type": "Reasoning"}, {}, "task_type"),
    "recording null": ({"recording": None}, {}, "recording"),
    "recording empty": ({"recording": ""}, {}, "recording"),
    "score nan": ({"score": float("nan")}, {}, "score"),
    "score inf": ({"score": float("inf")}, {}, "score"),
    "score -inf": ({"score": float("-inf")}, {}, "score"),
    "score beyond sums": ({"score": -1e308}, {}, "score"),
    "score text": ({"score": "abc"}, {"score": "varchar"}, "score"),
    "score text, no response": ({"score": "abc", "response": None}, {"score": "varchar"}, "score"),
    "score nan text": ({"score": "nan"}, {"score": "varchar"}, "score"),
    "no score kind": ({"score_kind": None}, {}, "score_kind"),
    "no response and no score": ({"response": None, "score": None}, {}, "response"),
    "prompt tokens negative": ({"prompt_tokens": -1}, {}, "prompt_tokens"),
    "completion tokens negative": ({"completion_tokens": -1}, {}, "completion_tokens"),
    "tokens fractional": ({"prompt_tokens": 3.5}, {"prompt_tokens": "double"}, "prompt_tokens"),
    "tokens fractional text": ({"prompt_tokens": "3.5"}, {"prompt_tokens": "varchar"}, "prompt_tokens"),
    "tokens fractional decimal": ({"completion_tokens": 0.4}, {"completion_tokens": "decimal(9, 2)"},
                                  "completion_tokens"),
    "tokens nan": ({"prompt_tokens": float("nan")}, {"prompt_tokens": "double"}, "prompt_tokens"),
    "tokens inf": ({"prompt_tokens": float("inf")}, {"prompt_tokens": "double"}, "prompt_tokens"),
    "tokens too large": ({"prompt_tokens": 2**64 - 1}, {"prompt_tokens": "ubigint"}, "prompt_tokens"),
    "tokens text": ({"prompt_tokens": "many"}, {"prompt_tokens": "varchar"}, "prompt_tokens"),
    "latency negative": ({"latency_ms": -0.5}, {}, "latency_ms"),
    "latency nan": ({"latency_ms": float("nan")}, {}, "latency_ms"),
    "cost negative": ({"cost_usd": -0.01}, {}, "cost_usd"),
    "cost inf": ({"cost_usd": float("inf")}, {}, "cost_usd"),
    "cost beyond sums": ({"cost_usd": 1e308}, {}, "cost_usd"),
    "cost text": ({"cost_usd": "free"}, {"cost_usd": "varchar"}, "cost_usd"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_every_bad_row_is_one_problem_and_the_good_rows_are_kept(shared: Log, name: str, file: Path, rule: str) -> None:
    """A malformed row is named once, by file, row and column; the others of its item are kept, before and after it."""
    changes, types, column = RULES[rule]

    def good(item: str, model: str) -> Row:
        return row(recording=name, item_id=item, model=model)

    def bad(item: str) -> Row:
        return {**good(item, "bad"), **changes}

    rows = [
        *(bad("i1"), good("i1", "m1"), good("i1", "m2")),
        *(good("i2", "m1"), good("i2", "m2"), bad("i2")),
    ]
    if "id" in column or column == "recording":
        rows[5] = good("i2", "m3")
    done = import_file(shared, parquet(file, rows, types=types))
    at = [n for n, r in enumerate(rows, 1) if r == {**r, **changes}]
    assert problems(done) == [(n, column) for n in at]
    assert str(done.problems[0]).startswith(f"small.parquet: row 1, column {column}: ")
    kept = [(r.item_id, r.model) for r in Recordings(shared).recorded(name)]
    assert kept == sorted((r["item_id"], r["model"]) for n, r in enumerate(rows, 1) if n not in at)


@pytest.mark.parametrize("rule", ["item_id null", "model null", "style null", "recording null"])
def test_rows_that_lack_the_same_id_are_one_problem_each(log: Log, file: Path, rule: str) -> None:
    """Rows without an id are not repetitions of each other, nor of one item."""
    changes, _, column = RULES[rule]
    rows = [row(**changes), row(**{**changes, "reference": "5"}), row(model="m9")]
    done = import_file(log, parquet(file, rows))
    assert problems(done) == [(1, column), (2, column)]
    assert done.added == 1


PATHS = (
    "../x", "..", ".", "/etc/passwd", "a/b", "a\\b", ".hidden", "-rf", "a b", "ä", "x\n", "x\0", "a" * 101, "~x", "$x",
)  # fmt: skip


def test_sec_path_in_a_recording_name_is_refused(log: Log, file: Path) -> None:
    """A recording's name can be no path: such rows are named and left out."""
    done = import_file(log, parquet(file, [row(), *(row(recording=name) for name in PATHS)]))
    assert problems(done) == [(n, "recording") for n in range(2, len(PATHS) + 2)]
    assert [r["recording"] for r in Recordings(log).recordings()] == ["small"]


def test_sec_path_in_a_refused_recording_name_is_not_handed_on(log: Log, file: Path) -> None:
    """The names that an import tells are those of rows that it kept."""
    assert import_file(log, parquet(file, [row(), row(recording="../x")])).recordings == ("small",)


def test_plain_recording_names_are_taken(log: Log, file: Path) -> None:
    """Letters, digits, dot, dash and underscore make a name."""
    names = ("A9", "a", "a.b-c_d", "gsm8k_openai2021", "x" * 100)
    done = import_file(log, parquet(file, [row(recording=name) for name in names]))
    assert (done.recordings, problems(done)) == (names, [])


def test_ds_dup_id_rows_are_named_with_the_row_they_repeat(log: Log, file: Path) -> None:
    """Of repeated rows the first is kept; each later one names it."""
    rows = [row(model="m0"), row(), row(response="other"), row(item_id="i2"), row()]
    done = import_file(log, parquet(file, rows))
    assert problems(done) == [(3, "item_id"), (5, "item_id")]
    assert {p.problem for p in done.problems} == {"repeats row 2"}
    assert [(r.item_id, r.model, r.response) for r in Recordings(log).recorded("small")] == [
        ("i1", "m0", "It is 4."),
        ("i1", "m1", "It is 4."),
        ("i2", "m1", "It is 4."),
    ]


def test_ds_dup_id_of_a_row_that_was_left_out_is_kept(log: Log, file: Path) -> None:
    """A good row does not count as the repetition of a malformed one."""
    done = import_file(log, parquet(file, [row(score=float("nan")), row()]))
    assert problems(done) == [(1, "score")]
    assert done.added == 1


def test_ds_dup_id_across_styles_and_models_is_no_repetition(log: Log, file: Path) -> None:
    """The same item may be answered by many models, in many styles."""
    rows = [row(model=m, prompt_style=s) for m in ("m1", "m2") for s in ("cot", "default")]
    done = import_file(log, parquet(file, rows))
    assert (done.added, problems(done)) == (4, [])


@pytest.mark.parametrize(
    ("column", "value"),
    [("reference", "5"), ("reference", None), ("task_type", "general"), ("prompt", "other")],
)
def test_one_item_has_one_reference_task_and_prompt(log: Log, file: Path, column: str, value: str | None) -> None:
    """A row that tells another thing about its item than the first one is named and left out."""
    rows = [row(), row(model="m2", **{column: value}), row(model="m3")]
    done = import_file(log, parquet(file, rows))
    assert problems(done) == [(2, column)]
    assert done.problems[0].problem == "differs from row 1 of the same item"
    assert done.added == 2


def test_styles_of_one_item_may_ask_differently(log: Log, file: Path) -> None:
    """Each prompt style has its own prompt for the item."""
    done = import_file(log, parquet(file, [row(), row(prompt_style="cot", prompt="2+2? Think.")]))
    assert (done.added, problems(done)) == (2, [])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("response", "other"), ("response", None), ("score", 0.5), ("score", None), ("score_kind", "judge"),
        ("reference", "5"), ("reference", None), ("prompt", "other"), ("task_type", "general"),
        ("prompt_tokens", 6), ("completion_tokens", None), ("latency_ms", 1.0), ("cost_usd", 0.5),
    ],
)  # fmt: skip
def test_a_changed_row_is_a_conflict_with_the_earlier_import(log: Log, tmp_path: Path, column: str, value: Any) -> None:
    """A row that was imported with other content is named; what was imported first stays."""
    import_file(log, parquet(tmp_path / "first.parquet", [row(), row(item_id="i2")]))
    before = Recordings(log).recorded("small")
    done = import_file(log, parquet(tmp_path / "second.parquet", [row(item_id="i2"), row(**{column: value})]))
    assert problems(done) == [(2, column)]
    assert "earlier" in done.problems[0].problem
    assert (done.added, done.already) == (0, 1)
    assert Recordings(log).recorded("small") == before


@pytest.mark.parametrize(("column", "value"), [("reference", "5"), ("task_type", "general"), ("prompt", "other")])
def test_another_file_may_not_tell_another_item(log: Log, tmp_path: Path, column: str, value: str) -> None:
    """A second file that adds a model to a known item must agree with the first about the item."""
    import_file(log, parquet(tmp_path / "first.parquet", [row()]))
    done = import_file(log, parquet(tmp_path / "second.parquet", [row(model="m2", **{column: value})]))
    assert problems(done) == [(1, column)]
    assert done.added == 0


def test_row_numbers_count_from_one_through_all_row_groups(log: Log, file: Path) -> None:
    """The number of a bad row is its place in the file, also behind many row groups."""
    rows = [row(item_id=f"i{n}") for n in range(1, 9001)]
    for n in (1, 2048, 2049, 5000, 9000):
        rows[n - 1]["score"] = float("inf")
    parquet(file, rows, options=", row_group_size 2048")
    done = import_file(log, file)
    assert problems(done) == [(n, "score") for n in (1, 2048, 2049, 5000, 9000)]
    assert done.added == 8995


def test_several_faults_of_one_row_are_one_rejected_row(log: Log, file: Path) -> None:
    """Each fault of a row is named, and the row counts once."""
    done = import_file(log, parquet(file, [row(), row(model="m2", score=float("nan"), prompt_tokens=-1)]))
    assert problems(done) == [(2, "prompt_tokens"), (2, "score")]
    assert (done.added, done.rejected) == (1, 1)


def test_a_file_of_bad_rows_only_adds_nothing(log: Log, file: Path) -> None:
    """When every row is bad, all are named and neither rows nor texts are stored."""
    done = import_file(log, parquet(file, [row(model=None), row(task_type="x")]))
    assert (done.rows, done.added, done.rejected) == (2, 0, 2)
    assert log.rows("select count(*) from recorded") == log.rows("select count(*) from texts") == [(0,)]
    assert Recordings(log).recordings() == []


def test_a_problem_quotes_little_of_a_huge_value(log: Log, file: Path) -> None:
    """What a bad row holds is quoted in at most a line."""
    rows = [row(score="9" * 50 + "x" * 1_000_000, task_type="y" * 1_000_000, recording="z" * 1_000_000)]
    done = import_file(log, parquet(file, rows, types={"score": "varchar"}))
    assert {p.column for p in done.problems} == {"score", "task_type", "recording"}
    assert max(len(str(p)) for p in done.problems) < 200


def test_sec_sql_in_a_file_is_data(log: Log, file: Path) -> None:
    """Text that looks like SQL is stored literally, in every text column."""
    text = "x'); drop table log.recorded; --"
    rows = [row(item_id=text, prompt=text, reference=text, model=text, prompt_style=text, response=text)]
    done = import_file(log, parquet(file, rows))
    assert problems(done) == []
    [got] = Recordings(log).recorded("small")
    assert (got.item_id, got.prompt, got.reference, got.model, got.prompt_style, got.response) == (text,) * 6


def test_reply_nul_in_a_file_is_kept(log: Log, file: Path) -> None:
    """NUL characters in texts and names come back."""
    done = import_file(log, parquet(file, [row(item_id="a\0b", model="m\0", response="\0", prompt="p\0q")]))
    assert problems(done) == []
    [got] = Recordings(log).recorded("small")
    assert (got.item_id, got.model, got.response, got.prompt) == ("a\0b", "m\0", "\0", "p\0q")


# -- bad files


@pytest.mark.parametrize("column", SCHEMA)
def test_ds_missing_col_is_named_beside_those_found(untouched: Log, file: Path, column: str) -> None:
    """A file without one of the columns is data.schema; the message names it and lists what was found."""
    rest = [c for c in SCHEMA if c != column]
    parquet(file, [row()], select=", ".join(rest))
    with pytest.raises(LLMValidationError) as caught:
        import_file(untouched, file)
    assert caught.value.code == "data.schema"
    assert re.search(rf"lacks the columns {column}\b", caught.value.message)
    assert caught.value.message.endswith(f"it has {', '.join(rest)}")
    assert column in caught.value.next_step
    assert untouched.rows("select count(*) from recorded") == [(0,)]


def test_ds_missing_col_of_another_name_is_suggested(untouched: Log, file: Path) -> None:
    """A column whose name is nearly right is suggested, and all missing ones are named at once."""
    parquet(file, [row()], select="* exclude (model, score), model as Model, score as scores")
    with pytest.raises(LLMValidationError, match=r"model \(found 'Model'\), score \(found 'scores'\)") as caught:
        import_file(untouched, file)
    assert caught.value.next_step == "rename or add: model, score"


@pytest.mark.parametrize("how", ["truncated", "text", "csv", "empty", "directory", "absent", "flipped"])
def test_ds_parquet_bad_file_is_named(untouched: Log, file: Path, how: str) -> None:
    """A file that is no whole Parquet file is data.file, names itself, and leaves the log as it was."""
    parquet(file, [row(item_id=str(n), response=str(n) * 50) for n in range(500)])
    data = file.read_bytes()
    if how == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif how == "text":
        file.write_text("this is no Parquet file, however long it is made to be")
    elif how == "csv":
        file.write_text(",".join(SCHEMA) + "\n")
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "flipped":
        file.write_bytes(data[:-60] + b"\xff" * 40 + data[-20:])
    else:
        file.unlink()
        if how == "directory":
            file.mkdir()
    with pytest.raises(LLMValidationError) as caught:
        import_file(untouched, file)
    assert caught.value.code == "data.file"
    assert "small.parquet" in caught.value.message
    assert untouched.rows("select count(*) from recorded") == [(0,)]
    assert untouched.rows("select count(*) from texts") == [(0,)]


def test_ds_parquet_bad_import_does_not_spoil_the_next_one(log: Log, file: Path, tmp_path: Path) -> None:
    """After a file that cannot be read, a good one is imported by the same log."""
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(LLMValidationError):
        import_file(log, tmp_path / "bad.parquet")
    assert import_file(log, parquet(file, [row()])).added == 1


def test_ds_empty_file_is_named(untouched: Log, file: Path) -> None:
    """A Parquet file without rows is data.empty."""
    with pytest.raises(LLMValidationError, match=r"small\.parquet has no rows") as caught:
        import_file(untouched, parquet(file, []))
    assert caught.value.code == "data.empty"


@pytest.mark.parametrize("name", ["d*.parquet", "d[1].parquet", "d?.parquet", "{d1,d2}.parquet"])
def test_sec_path_of_a_file_is_no_pattern(log: Log, tmp_path: Path, name: str) -> None:
    """A file whose name looks like a pattern is read itself; its neighbours are not."""
    for neighbour in ("d1.parquet", "d2.parquet"):
        parquet(tmp_path / neighbour, [row(recording="neighbour")])
    parquet(tmp_path / "plain.parquet", [row()]).rename(tmp_path / name)
    done = import_file(log, tmp_path / name)
    assert (done.rows, done.recordings) == (1, ("small",))


@pytest.mark.parametrize("place", ["model=other", "recording=other", "item_id=7", "extra=1"])
def test_sec_path_of_a_file_does_not_change_its_rows(log: Log, tmp_path: Path, place: str) -> None:
    """A folder named like `column=value` above the file adds or replaces no column."""
    done = import_file(log, parquet(tmp_path / place / "small.parquet", [row()]))
    assert problems(done) == []
    [got] = Recordings(log).recorded("small")
    assert (got.model, got.item_id) == ("m1", "i1")


@pytest.mark.parametrize("name", ["it's.parquet", 'a"b.parquet', "ünï code.parquet", "no_suffix", "x;y--.parquet"])
def test_a_file_may_have_any_name(log: Log, tmp_path: Path, name: str) -> None:
    """Quotes, spaces and other letters in the file's name are part of it."""
    parquet(tmp_path / "plain.parquet", [row()]).rename(tmp_path / name)
    done = import_file(log, tmp_path / name)
    assert (done.file, done.added) == (name, 1)


# -- the real recordings

NAMED = (
    "gsm8k_openai2021", "mmlu_routellm", "mmlu_pro", "bbh_direct_vs_cot", "alpaca_eval_instructions", "ted_ende_mqm",
    "wmt23_ende_mqm", "summeval_cnndm", "router_arena_2models", "classeval",
)  # fmt: skip


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> tuple[Log, dict[str, Imported]]:
    """A log with all ten recordings, and what each import said."""
    log = Log.open(tmp_path_factory.mktemp("real"))
    return log, {name: import_file(log, recordings / f"{name}.parquet") for name in NAMED}


def documented(recordings: Path) -> dict[str, dict[str, str]]:
    """The overview table of the recordings' README: recording -> column -> cell."""
    table = [
        [cell.strip() for cell in line.strip("| \n").split("|")]
        for line in (recordings / "README.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    [head] = [cells for cells in table if cells[0] == "recording" and "rows" in cells]
    return {cells[0]: dict(zip(head, cells, strict=True)) for cells in table if cells[0] in NAMED}


@pytest.mark.recordings
def test_all_ten_recordings_import_without_a_problem(real: tuple[Log, dict[str, Imported]], recordings: Path) -> None:
    """Every row that the recordings' README counts is added, and none is refused."""
    _, done = real
    expected = {name: int(cells["rows"]) for name, cells in documented(recordings).items()}
    assert len(expected) == 10
    assert {name: d.rows for name, d in done.items()} == expected
    assert {name: d.added for name, d in done.items()} == expected
    assert {name: d.problems for name, d in done.items() if d.problems} == {}


@pytest.mark.recordings
def test_the_recordings_have_the_items_models_and_styles_of_their_readme(
    real: tuple[Log, dict[str, Imported]], recordings: Path
) -> None:
    """Items, models and prompt styles of each recording are as many as documented."""
    log, _ = real
    expected = {
        name: (int(cells["items"]), int(cells["models"]), sorted(cells["styles"].split(", ")), int(cells["rows"]))
        for name, cells in documented(recordings).items()
    }
    got = {
        r["recording"]: (
            r["items"],
            len(r["models"]),
            sorted({style for model in r["models"] for style in model["styles"]}),
            r["rows"],
        )
        for r in Recordings(log).recordings()
    }
    assert got == expected


@pytest.mark.recordings
def test_the_recordings_come_out_as_the_files_have_them(
    real: tuple[Log, dict[str, Imported]], recordings: Path
) -> None:
    """What is replayed of a recording equals, value for value, what DuckDB reads from its file."""
    log, _ = real
    for name in ("router_arena_2models", "classeval", "wmt23_ende_mqm"):
        with duckdb.connect() as con:
            rows = con.execute(
                f"select {', '.join(SCHEMA)} from read_parquet(?) order by item_id, model, prompt_style",
                [str(recordings / f"{name}.parquet")],
            ).fetchall()
        fields = list(Recorded.__dataclass_fields__)
        names = [{"task_type": "task"}.get(c, c) for c in SCHEMA]
        expected = [dict(zip(names, values, strict=True)) for values in rows]
        got = [asdict(r) for r in Recordings(log).recorded(name)]
        assert got == [{f: e[f] for f in fields} for e in expected]


@pytest.mark.recordings
def test_the_mean_scores_are_those_of_the_readme(real: tuple[Log, dict[str, Imported]], recordings: Path) -> None:
    """The mean score of each GSM8K model is the documented one."""
    log, _ = real
    text = (recordings / "README.md").read_text()
    section = text.split("## gsm8k_openai2021")[1].split("\n## ")[0]
    line = re.search(r"mean score: (.*)", section)
    assert line is not None
    expected = dict(part.rsplit(" ", 1) for part in line[1].split("; "))
    rows = log.rows("select model, avg(score) from recorded where recording = 'gsm8k_openai2021' group by 1")
    assert {model: f"{mean:.3f}" for model, mean in rows} == expected


@pytest.mark.recordings
def test_the_recordings_imported_again_add_nothing(
    real: tuple[Log, dict[str, Imported]], recordings: Path, tmp_path: Path
) -> None:
    """A recording imported again, also from a copy under another name, adds no row and no text."""
    log, done = real
    before = log.rows("select count(*), count(distinct hash) from texts")
    copy = tmp_path / "renamed.parquet"
    shutil.copy(recordings / "gsm8k_openai2021.parquet", copy)
    again = import_file(log, copy)
    assert (again.added, again.already, problems(again)) == (0, done["gsm8k_openai2021"].rows, [])
    assert log.rows("select count(*), count(distinct hash) from texts") == before
    [(total, unique)] = before
    assert total == unique


@pytest.mark.recordings
def test_a_side_file_of_a_recording_is_refused_by_its_columns(untouched: Log, recordings: Path) -> None:
    """The side files, which carry other columns, are data.schema."""
    refused = Counter()
    for path in sorted(recordings.glob("*.*.parquet")):
        with pytest.raises(LLMValidationError) as caught:
            import_file(untouched, path)
        refused[caught.value.code] += 1
    assert refused == {"data.schema": 3}
