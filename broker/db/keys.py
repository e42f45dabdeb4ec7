"""Every Redis key, channel and queue name, for Python and for the Lua scripts. No other module spells one.

Schema (``ns`` is the namespace, ``penstock`` by default). Times are Unix milliseconds of the Redis server's clock.

==============================  =======  =====================================================================
key                             type     holds                                                      (lifetime)
==============================  =======  =====================================================================
``ns:job:<id>``                 hash     the job's record     (TTL ``retention_s`` from its end; none before it)
``ns:log:<id>``                 stream   a streamed job's chunks, entry id ``<attempt>-<seq>``     (as the record)
``ns:jobs``                     zset     every job by creation time        (entries leave with their records)
``ns:jobs:state:<state>``       zset     the same, by state                                              (same)
``ns:jobs:model:<model>``       zset     the same, by model                                              (same)
``ns:queued:<queue>``           zset     jobs waiting in a queue, by when they entered it        (until claimed)
``ns:window:<queue>``           zset     of these, those dispatched to the queue's list: id -> turn  (same)
``ns:backlog:<queue>:<tenant>``  zset     of these, a tenant's others, in order                           (same)
``ns:turns:<queue>``            zset     tenants with a backlog, by their next turn              (while they have)
``ns:fair:<queue>``             hash     tenants without a backlog: the turn of their next  (until the lane is empty);
                                         under the empty name the turn of the last one parked
``ns:missing:<queue>``          hash     dispatched jobs whose message is missing: id -> since when (until found)
``ns:parked:<pool>``            zset     ``<lane> <tenant>`` at its bound: the turn it waits with           (same)
``ns:waiting:<pool>``           hash     tenant -> jobs waiting in all lanes                     (while there are)
``ns:admitted:<pool>``          hash     tenant -> jobs dispatched or running                    (while there are)
``ns:admitted_bulk:<pool>``     hash     the same, of the lane ``bulk`` only                     (while there are)
``ns:queues``                   set      queues that ever held a job                                  (for good)
``ns:limits``                   hash     ``max_active``, ``ageing_ms``; by tenant ``max_active:``, ``weight:``  (for good)
``ns:paused``                   set      pools that are paused                                   (until resumed)
``ns:rate:<pool>``              hash     the pool's measured rate, see ``queue/_estimate.lua``        (for good)
``ns:affinity:<pool>:<key>``    string   node name of the last worker with this prefix        (TTL ten minutes)
``ns:coalesce:<tenant>:<sum>``  string   the unfinished job that runs this request             (until it ends)
``ns:followers:<id>``           set      jobs that end with this one                             (until it ends)
``ns:deadlines``                zset     unfinished jobs with a deadline, by deadline            (until the end)
``ns:delayed``                  zset     queued jobs that wait for their next attempt, by its time       (until then)
``ns:dead``                     zset     jobs that failed or expired and were not retried, by their end     (same)
``ns:retire``                   zset     finished jobs, by when their index entries go       (until they are gone)
``ns:idem:<tenant>:<key>``      string   ``<job id> <digest of the submission>``            (TTL ``retention_s``)
``ns:workers``                  zset     worker incarnations, by the end of their lease       (until buried)
``ns:worker:<w>``               hash     a worker's description, pool and models             (TTL, ten leases)
``ns:worker:<w>:jobs``          set      jobs it runs                                        (until it has none)
``ns:worker:<w>:cancels``       hash     orders for it: job to abort -> reason; ``drain`` -> seconds  (until the end)
``ns:models``                   hash     the pools' models: ``<pool> <model>`` -> facts as JSON       (for good)
``ns:envelope``                 string   the Celery message with placeholders, see ``envelope.py``    (for good)
``ns:reaper``                   hash     ``tick``: when the last round was                              (for good)
``ns:ended``                    hash     jobs ended without a worker: ``<pool> <lane> <state> <code>`` -> count (for good)
``ns:file:<id>``                hash     a file's record                        (until it is deleted or expires)
``ns:files``                    zset     every file's id, by creation time                                (same)
``ns:files:purpose:<purpose>``  zset     the same, by purpose                                             (same)
``ns:files:expiry``             zset     files that expire, by when                                       (same)
``ns:files:announced``          zset     ``<id> <key>`` of files whose object is written, by when  (until recorded, an hour)
``ns:files:trash``              set      keys of objects in storage to delete               (until they are gone)
``ns:files:was:<id>``           string   when a deleted file was created, for the pages after it          (TTL an hour)
``ns:batch:<id>``               hash     a batch's record      (TTL ``batch_retention_s`` from its end; none before it)
``ns:batch:<id>:open``          hash     chunks submitted and not done: number -> JSON               (until its end)
``ns:batch:<id>:done``          hash     finished chunks: number -> ledger of committed parts        (as the record)
``ns:batch:<id>:lease``         string   the coordinator that drives it                             (TTL, seconds)
``ns:batches``                  zset     every batch's id, by creation time                    (as the records)
``ns:batches:active``           set      batches that have not ended                            (until their end)
``ns:batches:retire``           zset     ended batches, by when their index entries go      (until they are gone)
``ns:batches:parts``            zset     ended batches, by when their parts in storage go    (until they are gone)
``ns:coordinators``             zset     what each coordinator says of itself, JSON, by the end of its lease  (TTL, seconds)
``ns:tasks``                    zset     tasks that are not done, by when a coordinator may take them    (until their end)
``ns:task:<kind>:<batch>``      hash     a task of the coordinators, and its answer    (TTL a day; a minute from its end)
``ns.<pool>.<lane>``            list     a lane's Celery messages; also the Celery queue's name   (until popped)
``ns.<pool>.@<node>``           list     the same, for one worker by its node name                        (same)
``_kombu.binding.<queue>``      set      Celery's own                                                 (for good)
==============================  =======  =====================================================================

Channels: ``ns:api:<process>`` carries job events and token counts to an api process, ``ns:ctl:<worker>`` orders and count
requests to a worker, ``ns:bell`` the ids of batches that the coordinators should look at (empty: all).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEMPLATES = {
    "job": "{ns}:job:@1",
    "log": "{ns}:log:@1",
    "jobs": "{ns}:jobs",
    "by_state": "{ns}:jobs:state:@1",
    "by_model": "{ns}:jobs:model:@1",
    "queued": "{ns}:queued:@1",
    "window": "{ns}:window:@1",
    "backlog": "{ns}:backlog:@1:@2",
    "turns": "{ns}:turns:@1",
    "fair": "{ns}:fair:@1",
    "missing": "{ns}:missing:@1",
    "parked": "{ns}:parked:@1",
    "waiting": "{ns}:waiting:@1",
    "admitted": "{ns}:admitted:@1",
    "admitted_bulk": "{ns}:admitted_bulk:@1",
    "queues": "{ns}:queues",
    "limits": "{ns}:limits",
    "paused": "{ns}:paused",
    "rate": "{ns}:rate:@1",
    "affinity": "{ns}:affinity:@1:@2",
    "coalesce": "{ns}:coalesce:@1:@2",
    "followers": "{ns}:followers:@1",
    "deadlines": "{ns}:deadlines",
    "delayed": "{ns}:delayed",
    "dead": "{ns}:dead",
    "retire": "{ns}:retire",
    "idem": "{ns}:idem:@1:@2",
    "workers": "{ns}:workers",
    "worker": "{ns}:worker:@1",
    "worker_jobs": "{ns}:worker:@1:jobs",
    "worker_cancels": "{ns}:worker:@1:cancels",
    "models": "{ns}:models",
    "envelope": "{ns}:envelope",
    "reaper": "{ns}:reaper",
    "ended": "{ns}:ended",
    "file": "{ns}:file:@1",
    "files": "{ns}:files",
    "files_by_purpose": "{ns}:files:purpose:@1",
    "files_expiry": "{ns}:files:expiry",
    "files_announced": "{ns}:files:announced",
    "files_trash": "{ns}:files:trash",
    "file_was": "{ns}:files:was:@1",
    "batch": "{ns}:batch:@1",
    "batch_open": "{ns}:batch:@1:open",
    "batch_done": "{ns}:batch:@1:done",
    "batch_lease": "{ns}:batch:@1:lease",
    "batches": "{ns}:batches",
    "batches_active": "{ns}:batches:active",
    "batches_parts": "{ns}:batches:parts",
    "batches_retire": "{ns}:batches:retire",
    "coordinators": "{ns}:coordinators",
    "tasks": "{ns}:tasks",
    "task": "{ns}:task:@1:@2",
    "bell_channel": "{ns}:bell",
    "api_channel": "{ns}:api:@1",
    "ctl_channel": "{ns}:ctl:@1",
    "queue": "{ns}.@1.@2",
    "own_queue": "{ns}.@1.@@2",
}
"""One template per key; ``@1`` and ``@2`` are its arguments."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names in one namespace. ``namespace`` may hold letters, digits, ``-`` and ``_``."""

    namespace: str = "penstock"

    def __call__(self, name: str, *args: str) -> str:
        """Return the key ``name`` for ``args``.

        Raises:
            KeyError: there is no such key.
        """
        key = _TEMPLATES[name].replace("{ns}", self.namespace)
        for place, arg in enumerate(args, 1):
            key = key.replace(f"@{place}", arg)
        return key

    def lua(self, user: str) -> str:
        """Return Lua source that defines the same names: ``K.job(id)``, ``K.jobs()``, ``K.queue(pool, lane)``.

        Args:
            user: the source that uses them; unused names are left out.
        """
        lines = ["local K = {"]
        used = set(re.findall(r"\bK\.(\w+)", user))
        for name in sorted(used):
            template = _TEMPLATES[name]
            text = template.replace("{ns}", self.namespace)
            expression = "'" + text.replace("@1", "' .. a .. '").replace("@2", "' .. b .. '") + "'"
            expression = expression.removesuffix(" .. ''")
            lines.append(f"  {name} = function(a, b) return {expression} end,")
        return "\n".join([*lines, "}", ""])
