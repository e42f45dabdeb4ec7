"""``penstock chat``: from a pipe and on a terminal, against a server whose answers the test chooses."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from penstock import AsyncPenstock, Penstock
from penstock._core.texts import delta_of
from penstock.cli._conversation import Conversation, ConversationError
from tests.modelserver import ModelServer
from tests.support import wait_until
from tests.terminal import Terminal
from tests.unit.penstock.test_cli import run

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20


@pytest.fixture(scope="module")
def shared_models() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def models(shared_models: ModelServer) -> ModelServer:
    shared_models.reset()
    return shared_models


def terminal(server: ModelServer, tmp_path, *args: str) -> Terminal:
    return Terminal("--url", server.url, "chat", *args, env={"XDG_STATE_HOME": str(tmp_path)})


def test_all_of_stdin_is_one_message_and_stdout_has_the_answer_alone(models: ModelServer) -> None:
    models.thoughts = ["hm"]
    done = run(models.url, "chat", "--system", "s", "--max-tokens", "9", stdin=b"first line\nsecond line\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one two three\n", "")
    (body,) = models.bodies
    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "first line\nsecond line"}]
    assert (body["messages"], body["model"], body["max_tokens"]) == (said, "m", 9)


def test_json_has_the_reasoning_the_tokens_and_the_times(models: ModelServer) -> None:
    models.thoughts = ["hm"]
    done = run(models.url, "chat", "--json", "--model", "m", stdin=b"?")
    said = json.loads(done.stdout)
    assert (said["content"], said["reasoning"], said["finish_reason"]) == ("one two three", "hm", "stop")
    assert said["usage"]["completion_tokens"] == 4
    assert 0 < said["timings"]["first_token_s"] <= said["timings"]["total_s"]


def test_a_cut_answer_and_a_failed_one_are_errors_and_are_not_asked_twice(models: ModelServer) -> None:
    models.cut_after = 1
    cut = run(models.url, "chat", stdin=b"?")
    assert (cut.returncode, cut.stdout) == (3, "one")
    assert "cut off" in cut.stderr
    models.cut_after, models.fail_after = None, 1
    failed = run(models.url, "chat", stdin=b"?")
    assert (failed.returncode, failed.stdout) == (4, "one")
    assert "engine_error: the engine died" in failed.stderr
    assert len(models.bodies) == 2


def test_a_server_that_is_busy_is_asked_again(models: ModelServer) -> None:
    models.refusals.append((429, {"error": {"message": "full", "code": "queue_full"}}))
    done = run(models.url, "chat", stdin=b"?")
    assert (done.returncode, done.stdout, len(models.bodies)) == (0, "one two three\n", 2)
    models.refusals.append((400, {"error": {"message": "too long", "code": "context_length_exceeded"}}))
    done = run(models.url, "chat", stdin=b"?")
    assert (done.returncode, "context_length_exceeded" in done.stderr, len(models.bodies)) == (4, True, 3)


@pytest.mark.asyncio
async def test_both_clients_yield_the_chunks(models: ModelServer) -> None:
    body = {"model": "m", "messages": []}
    async with AsyncPenstock(models.url) as client:
        pieces = [chunk async for chunk in client.chats.stream(body)]
    with Penstock(models.url) as client:
        assert list(client.chats.stream(body)) == pieces
    assert "".join(map(delta_of, pieces)) == "one two three"
    assert pieces[-1]["usage"]["completion_tokens"] == 3


def test_images_go_along_from_a_pipe(models: ModelServer, tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.txt").write_text("text")
    assert run(models.url, "chat", "--image", str(tmp_path / "a.png"), stdin=b"what?").returncode == 0
    image, text = models.bodies[0]["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBORw")
    assert text == {"type": "text", "text": "what?"}
    done = run(models.url, "chat", "--image", str(tmp_path / "b.txt"), stdin=b"what?")
    assert (done.returncode, "is no PNG" in done.stderr, len(models.bodies)) == (2, True, 1)


def test_a_conversation_on_a_terminal(models: ModelServer, tmp_path) -> None:
    models.models = [{"id": "m"}, {"id": "blind", "penstock": {"capabilities": {"images": 0}}}]
    models.thoughts = ["hm"]
    with terminal(models, tmp_path, "--model", "m") as screen:
        screen.expect("> ")
        screen.line("hello \\")
        screen.expect(". ")
        screen.line("world")
        screen.expect("one two three")
        assert "\x1b[2mhm\x1b[0m" in screen.raw  # the reasoning is dimmed, the answer is not
        screen.expect("> ")
        screen.line('"""')
        screen.line("/not a command")
        screen.line("")
        screen.line('"""')
        screen.expect("one two three")
        screen.line("/stats")
        screen.expect("7 + 4 tokens · first token after")
        screen.line("/system be brief")
        screen.expect("instructions: be brief")
        screen.line("/retry")
        screen.expect("one two three")
        screen.line("/model other")
        screen.expect("no model other; it has m, blind")
        screen.line("/nonsense")
        screen.expect("no command /nonsense")
        screen.line("/exit")
        assert screen.end() == 0
    first, second, again = (body["messages"] for body in models.bodies)
    assert first == [{"role": "user", "content": "hello \nworld"}]
    assert second[-1] == {"role": "user", "content": "/not a command\n"}
    assert again == [{"role": "system", "content": "be brief"}, *second]


def test_images_and_a_saved_conversation(models: ModelServer, tmp_path) -> None:
    models.models = [{"id": "m"}, {"id": "blind", "penstock": {"capabilities": {"images": 0}}}]
    saved = tmp_path / "talk.json"
    (tmp_path / "a.png").write_bytes(PNG)
    with terminal(models, tmp_path, "--model", "m") as screen:
        screen.line(f"/image {tmp_path / 'a.png'}")
        screen.expect("with your next message")
        screen.line("look")
        screen.expect("one two three")
        screen.line(f"/save {saved}")
        screen.expect("saved to")
        screen.line("/model blind")
        screen.expect("talking with blind")
        screen.line(f"/image {tmp_path / 'a.png'}")
        screen.expect("takes no images")
        screen.line("/exit")
        assert screen.end() == 0
    (asked,) = (body["messages"] for body in models.bodies)
    assert asked[-1]["content"][0]["type"] == "image_url"
    kept = json.loads(saved.read_text())
    assert kept["messages"] == [*asked, {"role": "assistant", "content": "one two three"}]
    history = tmp_path / "penstock" / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert "/model blind" in history.read_text()
    with terminal(models, tmp_path, "--load", str(saved)) as screen:
        screen.line("and now?")
        screen.expect("one two three")
        screen.expect("> ")
        screen.type("\x04")
        assert screen.end() == 0
    assert models.bodies[-1]["messages"][:-1] == kept["messages"]
    assert models.bodies[-1]["model"] == "m"


def test_ctrl_c_stops_the_answer_only(models: ModelServer, tmp_path) -> None:
    models.pieces = ["word "] * 2000
    models.gap_s = 0.02
    with terminal(models, tmp_path) as screen:
        screen.expect("> ")
        screen.line("go on")
        screen.expect("word word")
        screen.interrupt()
        screen.expect("[stopped; /retry asks again]")
        wait_until(lambda: models.gone == 1)
        screen.expect("> ")
        screen.interrupt()
        screen.expect("Ctrl-D or /exit leaves")
        models.pieces, models.gap_s = ["short"], 0.0
        screen.line("again")
        screen.expect("short")
        screen.line("/exit")
        assert screen.end() == 0
    kept = models.bodies[1]["messages"]
    assert [one["role"] for one in kept] == ["user", "assistant", "user"]
    assert kept[1]["content"].startswith("word word")


def test_an_error_leaves_the_conversation_open(models: ModelServer, tmp_path) -> None:
    with terminal(models, tmp_path) as screen:
        screen.expect("> ")
        models.refusals.append((400, {"error": {"message": "no", "code": "bad"}}))
        screen.line("hello")
        screen.expect("400 bad: no; /retry asks again")
        screen.line("/retry")
        screen.expect("one two three")
        screen.line("/exit")
        assert screen.end() == 0
    assert models.bodies[0]["messages"] == models.bodies[1]["messages"]


def test_a_message_that_failed_is_no_part_of_the_next_request(models: ModelServer, tmp_path) -> None:
    with terminal(models, tmp_path) as screen:
        screen.expect("> ")
        models.refusals.append((400, {"error": {"message": "no", "code": "bad"}}))
        screen.line("hello")
        screen.expect("/retry asks again")
        screen.line("/etc/hosts is what?")
        screen.expect("one two three")
        screen.line("//exit does what?")
        screen.expect("one two three")
        screen.line("/exit")
        assert screen.end() == 0
    said = [[one["content"] for one in body["messages"]] for body in models.bodies]
    answer = "one two three"
    assert said[1:] == [["/etc/hosts is what?"], ["/etc/hosts is what?", answer, "/exit does what?"]]


def test_an_empty_stdin_is_refused_in_words_of_chat() -> None:
    done = run("http://127.0.0.1:9", "chat")
    assert (done.returncode, "run it on a terminal; stdin is empty" in done.stderr) == (2, True)
    assert "--input" not in done.stderr


def test_a_message_without_an_answer_waits_for_retry_alone() -> None:
    talk = Conversation("m")
    talk.ask("first")
    talk.answered("one")
    talk.ask("second")
    talk.answered("")
    assert [one["content"] for one in talk.messages] == ["first", "one"]
    assert talk.ask_again()
    assert [one["content"] for one in talk.messages] == ["first", "one", "second"]
    talk.answered("")
    talk.ask("third")
    talk.answered("three")
    assert talk.ask_again()
    assert [one["content"] for one in talk.messages] == ["first", "one", "third"]
    talk.clear()
    assert not talk.ask_again()


def test_what_the_model_says_cannot_steer_the_terminal(models: ModelServer, tmp_path) -> None:
    models.pieces = ["\x1b]0;title\x07", "safe"]
    with terminal(models, tmp_path) as screen:
        screen.line("hello")
        screen.expect("safe")
        screen.line("/exit")
        screen.end()
        assert "\x1b]0;" not in screen.raw


def test_a_file_that_is_no_conversation_changes_nothing(tmp_path) -> None:
    talk = Conversation("m")
    talk.ask("hello")
    for text in ("[]", "{}", '{"messages": [1]}', "no json"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ConversationError, match=r"x\.json"):
            talk.load(tmp_path / "x.json")
    with pytest.raises(ConversationError, match="exists already"):
        talk.save(tmp_path / "x.json")
    assert talk.messages == [{"role": "user", "content": "hello"}]
