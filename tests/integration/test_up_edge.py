"""``penstock up --profile edge``: fewer processes, the same product."""

from __future__ import annotations

import json

from penstock import Penstock
from tests.integration.test_up import BODY, Up
from tests.processes import descendants
from tests.support import wait_until


def test_it_runs_calls_jobs_and_batches_with_two_processes_less(tmp_path):
    one = Up(tmp_path, "--engine", "simulated", "--profile", "edge", "--concurrency", "4")
    try:
        one.until_ready()
        lines = [" ".join(process.cmdline()) for process in descendants(one.process.pid)]
        assert not [line for line in lines if "coordinator --" in line or "flower" in line]
        with Penstock(one.url) as client:
            (worker,) = client.workers.list()
            assert worker.capacity == 4  # what is said wins over the profile
            assert client.wait(client.submit(BODY).id).state == "succeeded"
            rows = "".join(
                json.dumps(
                    {
                        "custom_id": str(n),
                        "method": "POST",
                        "url": "/v1/chat/completions",
                        "body": BODY,
                    }
                )
                + "\n"
                for n in range(5)
            )
            (tmp_path / "in.jsonl").write_text(rows)
            batch = client.batches.create(client.files.upload(tmp_path / "in.jsonl").id)
            wait_until(lambda: client.batches.get(batch.id).status == "completed")
        one.process.terminate()
        assert one.process.wait(30) == 0
        assert one.nothing_left()
    finally:
        one.process.kill()


def test_a_value_of_the_settings_file_wins_over_the_profile(tmp_path):
    (tmp_path / "penstock.toml").write_text('profile = "edge"\ncoordinator_in_api = false\n')
    one = Up(tmp_path, "--engine", "simulated", "--no-flower")
    try:
        one.until_ready()
        assert one.child("coordinator")
    finally:
        one.process.terminate()
        one.process.wait(30)
