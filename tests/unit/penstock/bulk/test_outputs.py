"""What comes back: kept across crashes, put in order, checked; and the check of files that lie here."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.bulk import outputs
from penstock.bulk.check import Check
from penstock.bulk.problems import InputError
from penstock.bulk.workdir import Workdir
from tests.unit.penstock.batch_double import answer_row, failed_row, never_ran


def lines(rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def inputs(count):
    return [{"custom_id": f"r{n}", "body": {}} for n in range(count)]


@pytest.fixture
def workdir(tmp_path):
    with Workdir(tmp_path / "out.jsonl.penstock", begin=True) as made:
        made.input.write_bytes(lines(inputs(6)))
        made.state.rows = 6
        made.save()
        yield made


def ids(path):
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("ordered", [True, False])
def test_the_output_is_ordered_as_asked_and_failures_stand_apart(workdir, tmp_path, ordered):
    rows = inputs(6)
    back = [
        answer_row(rows[5]),
        failed_row(rows[2]),
        answer_row(rows[0]),
        never_ran(rows[4]),
        answer_row(rows[1]),
    ]
    workdir.take(lines(back[:2]), "2")
    workdir.take(lines([*back[2:], answer_row(rows[3])]), "6")
    out, err = tmp_path / "out.jsonl", tmp_path / "err.jsonl"
    verdict = outputs.write(workdir, out, err, ordered=ordered)
    assert verdict.ok
    assert (verdict.total, verdict.completed, verdict.failed) == (6, 4, 2)
    assert ids(out) == (["r0", "r1", "r3", "r5"] if ordered else ["r5", "r0", "r1", "r3"])
    assert ids(err) == ["r2", "r4"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["err.jsonl", "out.jsonl", "out.jsonl.penstock"]


def test_without_failures_there_is_no_error_file_and_one_path_takes_both(workdir, tmp_path):
    rows = inputs(6)
    workdir.take(lines([failed_row(rows[0]), *map(answer_row, rows[1:])]), "6")
    out = tmp_path / "out.jsonl"
    assert outputs.write(workdir, out, out, ordered=True).ok
    assert ids(out) == ["r0", "r1", "r2", "r3", "r4", "r5"]
    workdir.rows.write_bytes(lines(map(answer_row, rows)))
    assert outputs.write(workdir, out, tmp_path / "err.jsonl", ordered=True).ok
    assert not (tmp_path / "err.jsonl").exists()


def test_a_disk_that_is_full_leaves_no_output(workdir, tmp_path):
    workdir.take(lines(map(answer_row, inputs(6))), "6")
    out = tmp_path / "folder"
    out.mkdir()  # the draft can be written, its place cannot be taken
    with pytest.raises(OSError, match="folder"):
        outputs.write(workdir, out, tmp_path / "err.jsonl", ordered=True)
    assert not list(tmp_path.glob("*.part"))


@settings(max_examples=40)
@given(st.integers(0, 200), st.binary(max_size=40))
def test_what_a_crash_left_behind_the_counted_bytes_is_cut_off(tmp_path_factory, kept, torn):
    path = tmp_path_factory.mktemp("run") / "out.penstock"
    page = lines(map(answer_row, inputs(3)))
    with Workdir(path, begin=True) as one:
        one.state.rows = 6
        one.input.write_bytes(lines(inputs(6)))
        one.take(page, "3")
    with one.rows.open("ab") as file:  # a page that was being written when the power went
        file.write(lines(map(answer_row, inputs(6)[3:]))[:kept] + torn)
    with Workdir(path, begin=False) as two:
        assert (two.state.cursor, two.state.received, two.started) == ("3", 3, True)
        two.take(lines(map(answer_row, inputs(6)[3:])), "6")
        assert two.rows.read_bytes() == page + lines(map(answer_row, inputs(6)[3:]))


def test_a_folder_has_one_run_at_a_time_and_can_be_begun_anew(tmp_path):
    path = tmp_path / "out.penstock"
    with Workdir(path, begin=True) as one:
        one.state.rows = 1
        one.input.write_bytes(b"{}\n")
        one.save()
        with pytest.raises(InputError, match="another run is using"):
            Workdir(path, begin=False)
    with Workdir(path, begin=False) as again:
        assert again.started
        assert again.state == one.state
    with Workdir(path, begin=True) as fresh:
        assert not fresh.started
        assert not fresh.input.exists()
        fresh.remove()
    assert not path.exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 99}', '{"version": 1, "odd": 2}'])
def test_a_state_that_cannot_be_read_is_said(tmp_path, content):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(InputError, match="--overwrite"):
        Workdir(tmp_path, begin=False)


def check(expected, shown):
    one = Check()
    wanted = list(enumerate(expected, 1))
    one.expect(wanted)
    for place, row in enumerate(shown, 1):
        one.show(row, f"line {place}")
    return one.end(wanted)


def test_each_kind_of_fault_is_found_and_named():
    rows = inputs(4)
    shown = [answer_row(rows[0]), answer_row(rows[0]), answer_row({"custom_id": "x"}), None, {"custom_id": 7}]
    verdict = check(["r0", "r1", "r2", "r2"], [*shown, failed_row(rows[1])])
    assert not verdict.ok
    assert (verdict.total, verdict.completed, verdict.failed) == (3, 1, 1)
    assert (verdict.duplicates, verdict.missing, verdict.unknown, verdict.unreadable) == (2, 1, 1, 2)
    assert verdict.named == {
        "duplicates": ["r2 (line 4 of the input)", "r0 (line 2)"],
        "unknown": ["x (line 3)"],
        "unreadable": ["line 4", "line 5"],
        "missing": ["r2"],
    }


@settings(max_examples=40)
@given(
    st.integers(0, 40),
    st.randoms(use_true_random=False),
    st.sampled_from(["none", "drop", "twice", "foreign"]),
)
def test_the_check_passes_exactly_where_every_row_is_there_once(count, rng, harm):
    rows = inputs(count)
    shown = [rng.choice([answer_row, failed_row, never_ran])(row) for row in rows]
    random.Random(count).shuffle(shown)
    if harm == "drop" and shown:
        shown.pop(rng.randrange(len(shown)))
    elif harm == "twice" and shown:
        shown.append(rng.choice(shown))
    elif harm == "foreign":
        shown.append(answer_row({"custom_id": "foreign"}))
    whole = harm == "none" or (harm in {"drop", "twice"} and not count)
    verdict = check([row["custom_id"] for row in rows], shown)
    assert verdict.ok is whole
    assert not whole or verdict.completed + verdict.failed == verdict.total == count
