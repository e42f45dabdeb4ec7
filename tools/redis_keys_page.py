"""The reference page on Redis keys, from the docstring of the module that makes them."""

from __future__ import annotations

from tools.markdown import generated, table

_KEYS_INTRO = """\
For inspecting a running system with `valkey-cli` or `redis-cli`. This is not an interface: the keys change
with the code, and only the functions in `broker/lua` write jobs."""


def redis_keys_page() -> str:
    """Return the page on Redis keys, from the docstring of ``broker/db/keys.py``."""
    import broker.db.keys

    lines = (broker.db.keys.__doc__ or "").splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("====")]
    starts = [
        at
        for at, char in enumerate(lines[rules[0]])
        if char == "=" and (at == 0 or lines[rules[0]][at - 1] == " ")
    ]
    rows = []
    for line in lines[rules[1] + 1 : rules[2]]:
        cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        holds, _, lifetime = cells[2].rpartition("  (")
        rows.append((cells[0], cells[1], holds.strip(), lifetime.removesuffix(")")))
    before = "\n".join(lines[2 : rules[0]]).strip()
    after = "\n".join(lines[rules[2] + 1 :]).strip()
    body = table(("key", "type", "holds", "lifetime"), rows)
    return generated(
        "Redis keys",
        "broker/db/keys.py",
        _KEYS_INTRO,
        *(part.replace("``", "`") for part in (before, body, after)),
    )
