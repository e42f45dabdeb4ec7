"""`benchmarks/tenants.py`: what it makes of its figures."""

from __future__ import annotations

import importlib

COST = {"way": "synchronous", "off_per_s": 2000.0, "on_per_s": 1960.0, "off_cpu_ms": 0.5, "on_cpu_ms": 0.51}
ACCEPT = {"way": "the same key", "empty_ms": 0.5, "full_ms": 0.52, "empty_us": 40.2, "full_us": 41.9}


def test_the_parts_that_were_run_become_tables() -> None:
    tenants = importlib.import_module("tenants")
    report = {
        "jobs": 2000,
        "clients": 64,
        "cost": [COST | {"ratios": [0.97, 0.99, 0.98]}],
        "many": {
            "tenants": 10_000,
            "keys": 100_000,
            "bytes_of_a_tenant": 250,
            "bytes_of_a_key": 430,
            "api_grew_mb": 3.0,
            "accept": [ACCEPT | {"ratios": [1.04, 1.02]}],
        },
        "flood": {
            "own_per_s": 20.0,
            "offered_per_s": 100.0,
            "alone": {"p50": 110.0, "p99": 120.0},
            "beside": {"p50": 111.0, "p99": 126.0},
            "refused": 900,
            "passed": 100,
            "refused_ms": {"p50": 1.5, "p99": 9.0},
            "others": {},
        },
    }
    found = tenants.tables(report)
    assert tuple(found) == tenants.TABLES
    assert (
        "| synchronous | 2000 | 1960 | 0.980 (0.97, 0.99, 0.98) | 0.50 ms | 0.51 ms |"
        in found["tenants-cost"]
    )
    assert "430 for a key" in " ".join(found["tenants-many"].split())
    assert "| the same key | 0.50 ms | 0.52 ms | 1.030 (1.04, 1.02) | 40 / 42 µs |" in found["tenants-many"]
    assert "| its own call, p99 | 120.0 ms | 126.0 ms | 1.050 | 1.1 |" in found["tenants-flood"]
    assert list(tenants.tables({"jobs": 1, "clients": 1, "cost": []})) == ["tenants-cost"]
