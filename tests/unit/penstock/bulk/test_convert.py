"""From files of every kind to rows, and what is said of files that cannot be used."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.bulk import records
from penstock.bulk.convert import convert, custom_ids
from penstock.bulk.problems import InputError
from penstock.bulk.rows import CHAT, Recipe
from penstock.bulk.source import detect, opened
from penstock.bulk.template import MissingFieldError, Template

ANY = Recipe(model="m")


def rows_of(path, recipe=ANY, **how):
    """The rows that a file becomes."""
    target = path.with_name("rows.jsonl")
    with opened(str(path)) as source:
        result = convert(source, target, recipe, **how)
    rows = [json.loads(line) for line in target.read_bytes().split(b"\n") if line]
    assert result.rows == len(rows)
    with opened(str(path)) as source:  # what `verify` will read
        assert [row["custom_id"] for row in rows] == [one for _, one in custom_ids(source, recipe, **how)]
    return rows


def prompts(rows):
    return [row["body"]["messages"][-1]["content"] for row in rows]


def refused(path, recipe=ANY, **how):
    """What is said of a file that cannot be used; nothing is left of the attempt."""
    path.with_name("rows.jsonl").unlink(missing_ok=True)
    with pytest.raises(InputError) as caught:
        rows_of(path, recipe, **how)
    assert not list(path.parent.glob("rows.jsonl*"))
    return str(caught.value)


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_plain_prompts(tmp_path):
    path = write(tmp_path, "p.txt", "\ufefffirst\r\n\n  \nsecond — ünïcode\u2028still second\nlast")
    rows = rows_of(path)
    assert prompts(rows) == ["first", "second — ünïcode\u2028still second", "last"]
    assert [row["custom_id"] for row in rows] == ["row-1", "row-2", "row-3"]
    assert rows[0] == {
        "custom_id": "row-1",
        "method": "POST",
        "url": CHAT,
        "body": {"messages": [{"role": "user", "content": "first"}], "model": "m"},
    }


def test_what_is_asked_of_every_row(tmp_path):
    path = write(tmp_path, "p.txt", "a\n")
    recipe = Recipe(
        model="m", system="be brief", template="Say {text} {{twice}}", params={"max_tokens": 3, "seed": 1}
    )
    body = rows_of(path, recipe)[0]["body"]
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "Say a {twice}"},
    ]
    assert (body["max_tokens"], body["seed"], body["model"]) == (3, 1, "m")
    assert rows_of(path, Recipe(endpoint="/v1/completions", model="m"))[0]["body"] == {
        "prompt": "a",
        "model": "m",
    }
    assert rows_of(path, Recipe(endpoint="/v1/embeddings", model="m"))[0]["body"]["input"] == "a"
    recipe = Recipe(endpoint="/v1/responses", model="m", params={"max_tokens": 3, "temperature": 0})
    assert rows_of(path, recipe)[0] == {
        "custom_id": "row-1",
        "method": "POST",
        "url": "/v1/responses",
        "body": {"input": "a", "max_output_tokens": 3, "temperature": 0, "model": "m"},
    }
    assert "--system is for" in refused(path, Recipe(endpoint="/v1/embeddings", model="m", system="s"))
    assert "OpenAI batch rows" in refused(path, Recipe(endpoint="/v1/other", model="m"))


def test_rows_of_messages_have_their_own_names(tmp_path):
    path = write(tmp_path, "p.txt", "a\n")
    recipe = Recipe(endpoint="/v1/messages", model="m", system="be brief", params={"stop": ["x"]})
    assert rows_of(path, recipe)[0]["body"] == {
        "messages": [{"role": "user", "content": "a"}],
        "system": "be brief",
        "max_tokens": 1024,
        "stop_sequences": ["x"],
        "model": "m",
    }
    assert (
        rows_of(path, Recipe(endpoint="/v1/messages", model="m", params={"max_tokens": 3}))[0]["body"][
            "max_tokens"
        ]
        == 3
    )
    said = [{"role": "user", "content": "b"}]
    row = {"custom_id": "r", "url": "/v1/messages", "body": {"model": "m", "messages": said, "max_tokens": 7}}
    path = write(tmp_path, "rows.jsonl", json.dumps(row) + "\n")
    (made,) = rows_of(path, Recipe(endpoint="/v1/messages", system="be brief"), kind="openai")
    assert made["body"] == {"model": "m", "messages": said, "max_tokens": 7, "system": "be brief"}


def test_a_record_is_the_body_where_there_is_no_one_prompt(tmp_path):
    records = [{"id": 5, "query": "q", "documents": ["a", "b"], "top_n": 1}]
    path = write(tmp_path, "r.jsonl", json.dumps(records[0]) + "\n")
    (row,) = rows_of(path, Recipe(endpoint="/v1/rerank", model="m", id_field="id"))
    assert row["custom_id"] == "5"
    assert row["body"] == {"query": "q", "documents": ["a", "b"], "top_n": 1, "model": "m"}
    assert "text_1 and text_2 or queries and documents" in refused(
        path, Recipe(endpoint="/v1/score", model="m")
    )
    assert "omit it" in refused(path, Recipe(endpoint="/v1/rerank", model="m", template="{query}"))
    path = write(tmp_path, "s.csv", "text_1,text_2\na,b\n")
    assert rows_of(path, Recipe(endpoint="/v1/score", model="m"))[0]["body"] == {
        "text_1": "a",
        "text_2": "b",
        "model": "m",
    }
    path = write(tmp_path, "p.txt", "a\n")
    assert rows_of(path, Recipe(endpoint="/v1/classify", model="m"))[0]["body"] == {
        "input": "a",
        "model": "m",
    }


def test_json_lines(tmp_path):
    lines = [
        {"prompt": "p", "id": 7},
        {"messages": [{"role": "user", "content": "in a message"}], "id": 8},
    ]
    path = write(tmp_path, "r.jsonl", "\n\n".join(map(json.dumps, lines)) + '\n"a bare\\nstring"\n')
    rows = rows_of(path)
    assert prompts(rows) == ["p", "in a message", "a bare\nstring"]
    path = write(tmp_path, "r.jsonl", json.dumps({"a": {"b": [1, "ü"]}, "n": None, "t": True, "id": 5}))
    rows = rows_of(path, Recipe(model="m", template="{a.b}|{n}|{t}|{id}", id_field="id"))
    assert (prompts(rows), rows[0]["custom_id"]) == (['[1, "ü"]||true|5'], "5")


def test_csv_and_tsv(tmp_path):
    path = write(tmp_path, "r.csv", '\ufeffid,text\n1,"two\nlines, ""quoted"""\n\n2,plain\n')
    recipe = Recipe(model="m", template="S: {text}", id_field="id")
    rows = rows_of(path, recipe)
    assert prompts(rows) == ['S: two\nlines, "quoted"', "S: plain"]
    assert [row["custom_id"] for row in rows] == ["1", "2"]
    assert prompts(rows_of(write(tmp_path, "r.tsv", "prompt\tx\na\tb\n"))) == ["a"]
    assert prompts(rows_of(write(tmp_path, "r.csv", "prompt;x\na;b\n"), delimiter=";")) == ["a"]


def test_parquet(tmp_path):
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"text": [f"t{n}" for n in range(2500)], "n": range(2500)}), path)
    rows = rows_of(path, Recipe(model="m", template="{n}: {text}"))
    assert prompts(rows) == [f"{n}: t{n}" for n in range(2500)]
    assert "no field 'x'" in refused(path, Recipe(model="m", template="{x}"))
    path.write_bytes(path.read_bytes()[:500])
    assert "cannot be read as Parquet" in refused(path)


def test_without_pyarrow_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'penstock[parquet]'" in refused(write(tmp_path, "r.parquet", b"PAR1"))


def test_openai_rows_pass_as_they_are_and_take_what_is_asked(tmp_path):
    row = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"model": "own", "prompt": "p"},
    }
    path = write(tmp_path, "b.jsonl", json.dumps(row))
    assert rows_of(path, Recipe()) == [row]
    changed = rows_of(path, Recipe(model="mine", params={"max_tokens": 2}))[0]
    assert changed["body"] == {"model": "mine", "prompt": "p", "max_tokens": 2}
    chat = {
        "custom_id": "a",
        "url": CHAT,
        "body": {"model": "m", "messages": [{"role": "user", "content": "u"}]},
    }
    path = write(tmp_path, "b.jsonl", json.dumps(chat))
    assert rows_of(path, Recipe(system="s"))[0]["body"]["messages"][0] == {"role": "system", "content": "s"}
    assert "omit --template and --id-field" in refused(path, Recipe(template="{x}"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"custom_id": None}, "line 2, field 'custom_id'"),
        ({"custom_id": ""}, "1 to 512 characters"),
        ({"custom_id": 7}, "must be a text"),
        ({"custom_id": "first"}, "is already used on line 1"),
        ({"url": "/v1/completions"}, "a batch has one endpoint"),
        ({"method": "GET"}, "must be POST"),
        ({"body": []}, "field 'body': must be a JSON object"),
        ({"body": {}}, "name one with --model"),
        ({"body": {"model": "other"}}, "a batch has one model, and the first row's is 'm'"),
        ({"body": {"model": "m", "stream": True}}, "cannot be streamed"),
    ],
)
def test_openai_rows_that_a_batch_would_refuse(tmp_path, change, said):
    good = {"custom_id": "first", "method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}}
    bad = good | {"custom_id": "second"} | change
    path = write(tmp_path, "b.jsonl", json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    assert said in refused(path, Recipe())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", b"", "has no rows"),
        ("p.txt", b"fine\nab\xff\n", "line 2, column 3: this is not UTF-8"),
        ("r.jsonl", b'{"prompt": "a"}\n{"prompt": }\n', "line 2, column 12: this is not JSON"),
        ("r.jsonl", b'{"prompt": "a"}\n[1]\n', "line 2: expected a JSON object or string, not list"),
        ("r.jsonl", b'{"prompt": NaN}\n', "line 1: this is not JSON: NaN"),
        (
            "r.jsonl",
            b'[{"prompt": "a"}]\n',
            "line 1: the file is a JSON array; write a value on each line: jq -c",
        ),
        ("r.jsonl", b'{\n"prompt": "a"\n}\n', "line 1: a JSON object must be on one line: jq -c . FILE"),
        (
            "r.jsonl",
            b'{"text": "a"}\n',
            "line 1, field 'prompt': there is none; make it with --template",
        ),
        ("r.csv", b"prompt,x\na,b,c\n", "line 2: 3 values, but the header has 2 columns"),
        ("r.csv", b'prompt,x\nok,"b', "line 2: unexpected end of data"),
        ("r.csv", b"prompt,x\nok,\xff\n", "line 2, column 4: this is not UTF-8"),
        ("r.csv", b"prompt,prompt\na,b\n", "two columns are named 'prompt'"),
        ("r.csv", b"prompt,\na,b\n", "the header's column 2 has no name"),
    ],
)
def test_the_place_of_what_is_wrong_is_named(tmp_path, name, content, said):
    assert said in refused(write(tmp_path, name, content))


def test_many_problems_are_counted_and_ten_are_shown(tmp_path):
    said = refused(write(tmp_path, "r.jsonl", '{"prompt": "a"}\n' + '{"x": 1}\n' * 25))
    assert "has 25 rows that cannot be used; nothing was sent" in said
    assert said.count("\n  line ") == 10
    assert "... and 15 more" in said


def test_an_id_that_occurs_twice(tmp_path):
    path = write(tmp_path, "r.csv", "id,prompt\na,x\nb,y\na,z\n")
    assert "line 4: the id 'a' is already used on line 2" in refused(path, Recipe(model="m", id_field="id"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("x", b"a prompt\n", "text"),
        ("x", b'{"prompt": "a"}\n', "jsonl"),
        ("x", b'"a string"\n', "jsonl"),
        ("x", b'\xef\xbb\xbf\n{"custom_id": "a", "body": {}}\n', "openai"),
        ("x", b'{"custom_id": "a", "body": {"messages": "' + b"z" * 70_000 + b'"}}\n', "openai"),
        ("x.jsonl", b"{not json\n", "jsonl"),
        ("x.csv", b"{odd},header\n", "csv"),
        ("x.tsv", b"a\n", "tsv"),
        ("x.txt", b'{"a": 1}\n', "text"),
        ("x", b"PAR1....", "parquet"),
        ("x", b"{curly} words\n", "text"),
        ("x", b"", "text"),
    ],
)
def test_what_a_file_is_shows_in_its_content_or_its_name(tmp_path, name, content, kind, packed):
    path = write(tmp_path, name + (".gz" if packed else ""), gzip.compress(content) if packed else content)
    with opened(str(path)) as source:
        assert (detect(source), source.packed) == (kind, packed)
        assert source.stream.read() == content


def test_gzip_goes_by_its_magic_bytes_and_damage_is_said(tmp_path):
    packed = gzip.compress(b"a\nb\n" * 1000)
    assert len(rows_of(write(tmp_path, "no-suffix", packed))) == 2000
    assert "damaged gzip" in refused(write(tmp_path, "cut.gz", packed[:-12]))
    with pytest.raises(InputError, match="No such file"), opened(str(tmp_path / "none")):
        pass


@settings(max_examples=40)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=30),
        min_size=1,
    )
)
def test_csv_gives_back_what_was_written(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("csv")
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerows([["prompt", "n"], *([text, n] for n, text in enumerate(texts))])
    assert prompts(rows_of(write(folder, "r.csv", out.getvalue()))) == texts


@settings(max_examples=40)
@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(max_size=20), min_size=1),
    st.text(),
)
def test_a_template_puts_values_in_and_leaves_the_rest(fields, text):
    plain = text.replace("{", "{{").replace("}", "}}")
    template = Template(plain + "".join(f"{{{name}}}|" for name in fields))
    assert template.fill(fields) == text + "".join(f"{value}|" for value in fields.values())
    assert template.names == tuple(fields)


@pytest.mark.parametrize("text", ["{", "}", "a {} b", "{ }", "{a{b}}"])
def test_a_template_that_is_none(text):
    with pytest.raises(InputError, match="braces"):
        Template(text)


def test_a_field_that_is_missing_has_a_name():
    with pytest.raises(MissingFieldError) as caught:
        Template("{a.b.c}").fill({"a": {"b": 1}})
    assert caught.value.name == "a.b.c"
    assert Template("{a.b}").fill({"a.b": "exact wins", "a": {"b": "nested"}}) == "exact wins"


def test_the_names_of_a_plain_prompt():
    assert records.TEXT_NAMES == ("prompt", "text", "line")
