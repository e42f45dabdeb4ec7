"""The items of a response: ids, and what its input is as items."""

from api.responses.history import Item, as_items, job_id_of, response_id, with_ids

JOB = "job_" + "0" * 32


def test_a_response_is_named_after_its_job() -> None:
    assert response_id(JOB) == f"resp_{JOB}"
    assert job_id_of(f"resp_{JOB}") == JOB
    for wrong in (JOB, f"resp_resp_{JOB}", "resp_", "resp_1", "", f"resp_{JOB}0"):
        assert job_id_of(wrong) is None, wrong


def test_a_text_is_one_message() -> None:
    (item,) = as_items("hi")
    assert item == {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "hi"}],
    }
    given = [{"role": "user", "content": "hi"}, item]
    assert as_items(given) == given
    assert as_items(None) == as_items([1, "x"]) == []


def test_every_item_has_an_id_that_stays() -> None:
    given: list[Item] = [
        {"role": "user", "content": "hi"},
        {"type": "message", "id": "msg_theirs", "role": "assistant", "content": []},
        {"type": "function_call_output", "call_id": "c", "output": "1", "id": None},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": ""},
        {"role": "user", "content": "hi"},
        {"type": "something_new"},
    ]
    items = with_ids(given, JOB)
    ids = [item["id"] for item in items]
    assert len(set(ids)) == len(ids)
    assert [ident.split("_")[0] for ident in ids] == ["msg", "msg", "fco", "fc", "msg", "item"]
    assert ids[1] == "msg_theirs"
    assert with_ids(given, JOB) == items == with_ids(items, "job_other"), "a later record keeps them"
    assert with_ids(given, "job_other")[0]["id"] != ids[0]
    assert "id" not in given[0], "the given items do not change"
