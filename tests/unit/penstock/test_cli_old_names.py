"""Commands that have another name now: the old name does the same for a release, and says the new one."""

from __future__ import annotations

import json
import re

import pytest

from penstock.cli._moved import GROUPS_NOW, MOVED, renewed
from tests.unit.penstock.double import ID, answer, job, pool, worker
from tests.unit.penstock.test_cli import lines, run
from tests.unit.penstock.test_cli_help import ALL, parsed

OLD_TREE = (
    """
submit|wait J|stream J|get J|list|cancel J|priority J high|retry J|queue ls|queue pause p|queue purge p low|queue resume p
queue top J|queue unpoison p|dead list|dead retry|batch cancel b|batch list|batch pause b|batch results b|batch resume b
batch retry b|batch run f -o o|batch status b|batch submit f|batch verify f|batch watch b|files delete f|files download f
files get f|files list
webhooks create u|webhooks delete w|webhooks deliveries w|webhooks list|webhooks resend w e|webhooks rotate w
webhooks secret|webhooks show w|webhooks test w|workers|rollout abort p|rollout back p|rollout start p|rollout status
rollout switch p --to q|aliases list|aliases rm a|aliases set a m|tenants list|tenants reset t|tenants set t|tenants show t
adapters add a s|adapters list|adapters pin a|adapters rm a|usage|audit|top|models|keys create --tenant t|keys list
keys revoke k|keys rotate k|health|up|api|coordinator|worker|worker --engine simulated|worker --pool=p --gpus 0
worker check|worker drain w|worker follow 1|flower|bench fit|encryption new-key
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
"""Every command that the release before had, with words that parse."""

PATHS = {one.path.removeprefix("penstock ") for one in ALL}


@pytest.mark.parametrize("old", OLD_TREE)
def test_every_old_name_is_a_command_still(old, capsys):
    words = [ID if word == "J" else word for word in old.split()]
    now = " ".join(renewed(words))
    said = capsys.readouterr()
    assert any(now == path or now.startswith(f"{path} ") for path in PATHS), now
    path = parsed(renewed(words))
    assert said.out == ""
    assert said.err.count("\n") == (now != old.replace("J", ID))
    assert path.removeprefix("penstock ") in PATHS


def test_every_old_name_of_the_table_is_tried():
    tried = {old for old in {**MOVED, **GROUPS_NOW} for line in OLD_TREE if f"{line} ".startswith(f"{old} ")}
    assert tried | {"dead", "aliases"} == {*MOVED, *GROUPS_NOW}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("wait", ID), ("jobs", "wait", ID)),
        (("wait", ID, "--timeout", "0.1s"), ("jobs", "wait", ID, "--timeout", "0.1s")),
        (("stream", ID), ("jobs", "stream", ID)),
        (("get", ID), ("jobs", "get", ID)),
        (("get", "job_gone"), ("jobs", "get", "job_gone")),
        (("get",), ("jobs", "get")),
        (("list", "--state", "failed"), ("jobs", "list", "--state", "failed")),
        (("list", "--text"), ("jobs", "list", "--text")),
        (("cancel", ID), ("jobs", "cancel", ID)),
        (("priority", "--help"), ("jobs", "move", "--help")),
        (("priority", ID, "high"), ("jobs", "move", ID, "--priority", "high")),
        (("priority", "--text", ID, "low"), ("jobs", "move", ID, "--priority", "low", "--text")),
        (("priority", ID, "realtime"), ("jobs", "move", ID, "--priority", "realtime")),
        (("queue", "top", ID), ("jobs", "move", ID, "--top")),
        (("queue", "ls"), ("queue", "list")),
        (("retry", ID), ("jobs", "retry", ID)),
        (("dead", "list", "--code", "timeout"), ("jobs", "list", "--dead", "--code", "timeout")),
        (("dead", "retry", "--code", "timeout"), ("jobs", "retry", "--dead", "--code", "timeout")),
        (("dead", "retry"), ("jobs", "retry", "--dead")),
        (("workers",), ("worker", "list")),
        (("models",), ("models", "list")),
        (("models", "--text"), ("models", "list", "--text")),
        (("health",), ("status", "--health")),
        (("worker", "--bad"), ("worker", "run", "--bad")),
    ],
    ids=lambda words: " ".join(words).replace(ID, "J"),
)
def test_an_old_name_answers_the_same_and_says_the_new_one_once(server, old, new):
    server.pools = [pool()]
    outcomes = []
    for words in (new, old):
        server.workers = [worker()]
        server.job = job() if "0.1s" in words else job(state="succeeded", result=answer("hi"))
        server.jobs = [job(id=f"job_{n}") for n in range(3)]
        server.dead = [job(id=f"job_{n}", state="failed", error={"code": "timeout"}) for n in range(3)]
        server.happened("hi")
        outcomes.append(run(server, *words))
    now, before = outcomes
    assert (before.returncode, before.stdout) == (now.returncode, now.stdout)
    hint, _, rest = before.stderr.partition("\n")
    assert re.sub(r"\d+", "", rest) == re.sub(r"\d+", "", now.stderr)  # how long it took differs
    assert hint.startswith(f"penstock {old[0]}")
    assert " is now penstock " in hint


def test_the_hint_is_json_where_stderr_is(server):
    done = run(server, "list", "--json")
    assert (done.returncode, lines(done)) == (0, [])
    assert json.loads(done.stderr) == {"note": "penstock list is now penstock jobs list"}


def test_no_help_has_an_old_name():
    old = {name for name in MOVED if " " not in name}
    assert not old & {path.partition(" ")[0] for path in PATHS}
    shown = run("http://127.0.0.1:9", "--help").stdout
    assert not [name for name in old if f"\n  {name} " in shown]


@pytest.mark.parametrize("group", ["models", "worker"])
def test_the_help_of_a_group_that_was_a_command_is_the_groups(group):
    done = run("http://127.0.0.1:9", group, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: penstock {group} [OPTIONS] COMMAND" in done.stdout
