#!/usr/bin/env python3
"""Write the file of Redis users from the table in ``broker/db/acl.py``.

``python tools/gen_acl.py`` writes ``deploy/valkey/users.acl``, in which ``@NAME@`` stands for the password of each user.

``python tools/gen_acl.py --passwords secrets --namespace penstock > users.acl`` prints the file for a server of your own;
the password of the user ``NAME`` is in ``secrets/redis_NAME``. Redis 7.0 needs ``--redis-7.0``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from broker.db.acl import acl_lines, password_rule  # noqa: E402 - the repository's root comes first
from broker.db.keys import Keys  # noqa: E402 - as above

TEMPLATE = ROOT / "deploy" / "valkey" / "users.acl"


def for_redis_7_0(line: str) -> str:
    """Return a user's line without the commands that Redis 7.0 does not know: it would refuse to start."""
    return line.replace(" +client|setinfo", "")


def main() -> None:
    """Write the template, or print a file with the hashes of passwords."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--namespace", default="penstock", help="whose keys the users may touch")
    parser.add_argument("--passwords", type=Path, metavar="FOLDER", help="where the files redis_NAME are")
    parser.add_argument(
        "--redis-7.0", dest="redis_7_0", action="store_true", help="for a server of this version"
    )
    args = parser.parse_args()
    if args.passwords is None:
        lines = acl_lines(Keys(args.namespace), lambda user: f"@{user}@")
        TEMPLATE.write_text("".join(f"{line}\n" for line in lines))
        return

    def password(user: str) -> str:
        return password_rule((args.passwords / f"redis_{user}").read_text().strip())

    for line in acl_lines(Keys(args.namespace), password):
        print(for_redis_7_0(line) if args.redis_7_0 else line)


if __name__ == "__main__":
    main()
