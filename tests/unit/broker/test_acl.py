"""The table of Redis rights, against the keys, the functions and the file that is written from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.db import keys as schema
from broker.db.acl import ADMIN, CHANNELS, QUEUES, ROLES, acl_lines, password_rule
from broker.db.keys import Keys
from broker.db.library import library

ROOT = Path(__file__).parents[3]
FORBIDDEN = (
    "acl config debug eval_ro failover flushall flushdb function function|dump function|flush function|kill"
    " function|restore keys migrate module monitor randomkey replicaof restore save scan script|flush"
    " script|kill shutdown slaveof swapdb client|kill client|pause rename sort"
)


def test_every_key_belongs_to_a_role() -> None:
    written = {name for role in ROLES.values() for name in role.writes.split()}
    assert written | {*CHANNELS.split(), QUEUES} == set(schema._TEMPLATES)


@pytest.mark.parametrize("role", ["api", "worker", "coordinator"])
def test_every_command_of_a_function_is_allowed(role: str) -> None:
    used = {command.lower() for command in re.findall(r"redis\.p?call\('(\w+)'", library().source)}
    assert len(used) > 30
    assert used - set(ROLES[role].commands.split()) == set()


@pytest.mark.parametrize("role", ROLES)
def test_no_role_may_give_a_command_of_an_administrator(role: str) -> None:
    assert set(ROLES[role].commands.split()) & set(FORBIDDEN.split()) == set()


def test_other_namespaces_are_out_of_reach() -> None:
    rules = " ".join(acl_lines(Keys("mine"), lambda user: "#"))
    patterns = re.findall(r"(?:%R)?~(\S+?)(?=[ )])", rules)
    ours = [one for one in patterns if one.startswith(("mine:", "mine."))]
    assert len(ours) > 40
    assert {one for one in patterns if one not in ours} == {
        *("*", "_kombu.binding*", "*celery.pidbox", "celeryev.*"),
    }
    assert not re.search(r"@\d", rules), "an argument of a key is no pattern"


def test_a_password_is_kept_as_its_hash() -> None:
    assert password_rule("foobared") == "#1b58ee375b42e41f0e48ef2ff27d10a5b1f6924a9acdcdba7cae868e7adce6bf"


def test_the_file_for_the_server_is_the_tables() -> None:
    lines = (ROOT / "deploy" / "valkey" / "users.acl").read_text().splitlines()
    assert lines == list(acl_lines(Keys(), lambda user: f"@{user}@"))
    assert {line.split()[1] for line in lines} == {"default", ADMIN, *ROLES}
