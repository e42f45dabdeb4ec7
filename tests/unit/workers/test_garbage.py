"""The collector of cycles in a worker."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc
from workers.garbage import collect_seldom

def full_collections():
    return gc.get_stats()[2]["collections"]

def churn():
    kept = []
    for _ in range(400_000):  # objects that live on: those that make the collector look at all generations
        kept.append([])
    return kept

before = full_collections()
churn()
usual = full_collections() - before
known = len(gc.get_objects())
collect_seldom()
spared = gc.get_freeze_count()
before = full_collections()
churn()
print(usual, full_collections() - before, spared / known)
"""


def test_a_worker_does_not_stop_for_full_collections() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    usual, now, spared = map(float, done.stdout.split())
    assert usual > 3
    assert now == 0
    assert spared > 0.9, "nearly all that was there"
