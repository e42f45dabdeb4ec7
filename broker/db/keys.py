"""Every Redis key, channel and queue name, for Python and for the Lua functions. No other module spells one.

Schema (``ns`` is the namespace, ``penstock`` by default; ``P`` a pool). Times are Unix milliseconds of the server's clock.

================================  =======  ===================================================================
key                               type     holds                                                    (lifetime)
================================  =======  ===================================================================
``ns:schema``                     string   version of all this                                      (for good)
``ns:job:<id>``                   hash     the job's record   (TTL ``retention_s`` and a week, from its end)
``ns:log:<id>``                   stream   a streamed job's chunks, entry id ``<attempt>-<seq>``   (TTL ``retention_s``)
``ns:jobs``                       zset     every job by creation time      (entries leave with their records)
``ns:ended:<state>``              zset     ended jobs by the time of their end                          (same)
``ns:dead``                       zset     jobs that failed or expired and were not retried, by their end   (same)
``ns:objects``                    hash     job -> keys of its bodies in the storage     (until its record goes)
``ns:storage``                    string   name of the object by which processes know their storage     (for good)
``ns:deadlines``                  zset     unfinished jobs with a deadline, by deadline            (until the end)
``ns:delayed``                    zset     queued jobs that wait for their next attempt, by its time     (until then)
``ns:coalesce:<tenant>:<sum>``    string   the unfinished job that runs this request             (until it ends)
``ns:followers:<id>``             set      jobs that end with this one                           (until it ends)
``ns:jobs:of:<tenant>``           zset     jobs of one tenant by creation, no chunks of batches  (as ``ns:jobs``)
``ns:dead:of:<tenant>``           zset     of these, dead ones, by their end                     (as ``ns:dead``)
``ns:idem:<room>:<tenant>:<key>`` string   ``<id> <digest>`` of a job, file or batch         (TTL ``retention_s``)
``ns:limits``                     hash     bounds of all tenants; ``by_tenant``: some have records     (for good)
``ns:uncounted``                  hash     jobs ended without a worker: ``<pool> <lane> <state> <code>`` -> count (for good)
``ns:reaper``                     hash     ``tick``: when the last round was                            (for good)
``ns:libraries``                  set      function libraries that this namespace's workers brought     (for good)
``ns:pools``                      set      every pool that had a job or a worker                        (for good)
``ns:pool:P``                     hash     depths, virtual times, counts, mean runs, ...; see ``2_*.lua``   (for good)
``ns:pool:P:backlog:<lane>:<t>``  zset     a tenant's queued jobs in order; tenant '': jobs before all   (until claimed)
``ns:pool:P:turns:<lane>``        zset     tenants with a backlog, by their next turn             (while they have)
``ns:pool:P:tags:<lane>``         hash     tenant -> where its next job's cost begins      (until the lane is empty)
``ns:pool:P:parked``              hash     ``<lane> <tenant>`` at its bound -> the turn it waits with      (same)
``ns:pool:P:attached``            hash     ``<lane> <tenant>`` -> jobs that wait for an identical one  (while there are)
``ns:pool:P:active``              hash     tenant -> running jobs                           (0 for who had some)
``ns:pool:P:active_bulk``         hash     the same, of the lane ``bulk`` only                           (same)
``ns:pool:P:slots``               hash     worker -> ``<slots> <for bulk>``, of a sleeper both later, ms (until it is buried)
``ns:pool:P:means``               hash     ``<tenant> <model>``, and `` <model>`` -> mean completion tokens  (for good)
``ns:pool:P:poison``              hash     kinds of requests that kill its engines, see ``jobs/poison.py``  (TTL, hours)
``ns:pool:P:affinity:<key>``      string   the last worker with this prefix                   (TTL ten minutes)
``ns:pool:P:bell``                list     at most one entry: an idle worker takes it and claims   (until taken)
``ns:pool:P:bell:bulk``           list     the same, for who has room for bulk                           (same)
``ns:bell:<worker>``              list     the same, for one worker                    (until taken, TTL seconds)
``ns:leases``                     zset     worker incarnations, by the end of their lease       (until buried)
``ns:worker:<w>``                 hash     a worker's description, pool and models          (TTL, ten leases)
``ns:worker:<w>:jobs``            set      jobs it runs                                     (until it has none)
``ns:worker:<w>:orders``          hash     orders for it: job to abort -> reason; ``drain`` -> seconds  (until the end)
``ns:swap:<machine>:<group>``     hash     members and grants of a swap group, see ``swap.lua``  (TTL, ten leases)
``ns:rollout:<pool>``             hash     a pool's versions, see ``jobs/rollouts.py``                    (for good)
``ns:keeper:<pool>``              string   the process that carries out its rollouts                   (TTL, seconds)
``ns:aliases``                    hash     alias -> model, as operators have set it                     (for good)
``ns:worker:<w>:adapters``        hash     adapter -> what it says of it, JSON                   (TTL, ten leases)
``ns:node:P:<node>``             string   a remote node of an engine lives                     (TTL, one lease)
``ns:adapters:P``                 hash     LoRA adapters of a pool, see ``2_adapter.lua``               (for good)
``ns:adapted``                    hash     ``<pool> <adapter>`` -> the adapter as a model, JSON         (for good)
``ns:declared``                   hash     pools that scale from zero: pool -> record, JSON               (for good)
``ns:models``                     hash     the pools' models: ``<pool> <model>`` -> facts as JSON       (for good)
``ns:served``                     hash     model -> when it was first served, in seconds                (for good)
``ns:file:<id>``                  hash     a file's record                     (until it is deleted or expires)
``ns:files``                      zset     every file's id, by creation time                             (same)
``ns:files:purpose:<purpose>``    zset     the same, by purpose                                          (same)
``ns:files:of:<tenant>``          zset     those of one tenant                                              (same)
``ns:files:of:<tenant>:<purpose>``  zset   of these, those of one purpose                                   (same)
``ns:files:expiry``               zset     files that expire, by when                                    (same)
``ns:files:announced``            zset     ``<id> <key>`` of files whose object is written, by when  (an hour)
``ns:files:trash``                set      keys of objects in storage to delete            (until they are gone)
``ns:files:was:<id>``             string   when a deleted file was created; also as ``<tenant>:<id>``     (TTL an hour)
``ns:batch:<id>``                 hash     a batch's record   (TTL ``batch_retention_s`` and a week, from its end)
``ns:batch:<id>:open``            hash     chunks submitted and not done: number -> JSON            (until its end)
``ns:batch:<id>:done``            hash     finished chunks: number -> ledger of committed parts     (as the record)
``ns:batch:<id>:lease``           string   the coordinator that drives it                          (TTL, seconds)
``ns:batches``                    zset     every batch's id, by creation time                 (as the records)
``ns:batches:of:<tenant>``        zset     those of one tenant                               (as the records)
``ns:batches:active``             set      batches that have not ended                         (until their end)
``ns:batches:retire``             zset     ended batches, by when their index entries go   (until they are gone)
``ns:batches:parts``              zset     ended batches, by when their parts in storage go (until they are gone)
``ns:coordinators``               zset     what each coordinator says of itself, JSON, by its lease's end  (TTL)
``ns:tasks``                      zset     tasks that are not done, by when a coordinator may take them (until their end)
``ns:task:<kind>:<batch>``        hash     a task of the coordinators, and its answer (TTL a day; a minute from its end)
``ns:access``                     hash     ``version`` of keys and tenants; what was taken over; ``user_key`` (for good)
``ns:key:<id>``                   hash     an API key: digests of its secrets, tenant, scopes; see ``access.lua`` (for good)
``ns:keys``                       zset     every key's id, by creation time                         (for good)
``ns:keys:of:<tenant>``           zset     those of one tenant                                      (for good)
``ns:tenants``                    set      tenants with a record                                    (for good)
``ns:tenant:<tenant>``            hash     its weight, bounds, quotas and rights, see ``tenant.lua``  (for good)
``ns:quota:<tenant>``             hash     what it used of its quotas, see ``quota.lua``            (for good)
``ns:usage:<yyyymmdd>``           hash     ``<tenant> <key> <model>`` -> counters of a day          (TTL 400 days)
``ns:audit``                      stream   administrative acts                                      (by age)
``ns:conversation:<id>``          hash     its tenant, last response and items that follow it   (TTL ``retention_s``)
``ns:chats:of:<tenant>``          zset     stored chat completions, by creation                     (as their jobs)
``ns:webhook:<id>``               hash     a webhook endpoint, or the secret of a tenant's    (until it is deleted)
``ns:webhooks``                   zset     every endpoint's id, by creation                                 (same)
``ns:webhooks:of:<tenant>``       zset     those of one tenant                                              (same)
``ns:webhooks:counts``            hash     tries by result, and dead letters by why                    (for good)
``ns:webhooks:due``               zset     endpoints with something to deliver, by when to try     (until delivered)
``ns:webhook:<id>:outbox``        stream   what happened and was not delivered yet, in order               (same)
``ns:webhook:<id>:tries``         stream   tries to deliver, the last ones                               (by count)
``ns:webhook:<id>:dead``          stream   what could not be delivered                                   (by count)
``ns:webhook:<id>:lease``         string   the coordinator that delivers to it                     (TTL, seconds)
``_kombu.binding.<queue>``        set      Celery's own                                               (for good)
================================  =======  ===================================================================

When a retention is over, the reaper deletes the job, and a coordinator the batch. They need the record to know its tenant,
which is why it has a week more.

Channels: ``ns:api:<process>`` carries job events and token counts to an api process, ``ns:ctl:<worker>`` orders and count
requests to a worker, ``ns:look`` the ids of batches that the coordinators should look at (empty: all).

``ns.<pool>.<lane>`` is a lane's name as a Celery queue. There is no such key: a worker's transport claims.
``ns:workers`` and ``ns:paused`` are texts that stop processes of the version before (:mod:`broker.migration`).
"""

from __future__ import annotations

from dataclasses import dataclass

_TEMPLATES = {
    "schema": "{ns}:schema",
    "job": "{ns}:job:@1",
    "log": "{ns}:log:@1",
    "jobs": "{ns}:jobs",
    "ended": "{ns}:ended:@1",
    "dead": "{ns}:dead",
    "objects": "{ns}:objects",
    "storage": "{ns}:storage",
    "deadlines": "{ns}:deadlines",
    "delayed": "{ns}:delayed",
    "coalesce": "{ns}:coalesce:@1:@2",
    "followers": "{ns}:followers:@1",
    "jobs_of": "{ns}:jobs:of:@1",
    "dead_of": "{ns}:dead:of:@1",
    "idem": "{ns}:idem:@1:@2:@3",
    "limits": "{ns}:limits",
    "uncounted": "{ns}:uncounted",
    "reaper": "{ns}:reaper",
    "pools": "{ns}:pools",
    "libraries": "{ns}:libraries",
    "pool": "{ns}:pool:@1",
    "backlog": "{ns}:pool:@1:backlog:@2:@3",
    "turns": "{ns}:pool:@1:turns:@2",
    "tags": "{ns}:pool:@1:tags:@2",
    "parked": "{ns}:pool:@1:parked",
    "attached": "{ns}:pool:@1:attached",
    "active": "{ns}:pool:@1:active",
    "active_bulk": "{ns}:pool:@1:active_bulk",
    "slots": "{ns}:pool:@1:slots",
    "means": "{ns}:pool:@1:means",
    "poison": "{ns}:pool:@1:poison",
    "affinity": "{ns}:pool:@1:affinity:@2",
    "bell": "{ns}:pool:@1:bell",
    "bulk_bell": "{ns}:pool:@1:bell:bulk",
    "own_bell": "{ns}:bell:@1",
    "leases": "{ns}:leases",
    "worker": "{ns}:worker:@1",
    "worker_jobs": "{ns}:worker:@1:jobs",
    "worker_orders": "{ns}:worker:@1:orders",
    "node": "{ns}:node:@1:@2",
    "swap": "{ns}:swap:@1:@2",
    "rollout": "{ns}:rollout:@1",
    "keeper": "{ns}:keeper:@1",
    "aliases": "{ns}:aliases",
    "worker_adapters": "{ns}:worker:@1:adapters",
    "adapters": "{ns}:adapters:@1",
    "adapted": "{ns}:adapted",
    "declared": "{ns}:declared",
    "models": "{ns}:models",
    "served": "{ns}:served",
    "file": "{ns}:file:@1",
    "files": "{ns}:files",
    "files_by_purpose": "{ns}:files:purpose:@1",
    "files_of": "{ns}:files:of:@1",
    "files_of_purpose": "{ns}:files:of:@1:@2",
    "files_expiry": "{ns}:files:expiry",
    "files_announced": "{ns}:files:announced",
    "files_trash": "{ns}:files:trash",
    "file_was": "{ns}:files:was:@1",
    "batch": "{ns}:batch:@1",
    "batch_open": "{ns}:batch:@1:open",
    "batch_done": "{ns}:batch:@1:done",
    "batch_lease": "{ns}:batch:@1:lease",
    "batches": "{ns}:batches",
    "batches_of": "{ns}:batches:of:@1",
    "batches_active": "{ns}:batches:active",
    "batches_parts": "{ns}:batches:parts",
    "batches_retire": "{ns}:batches:retire",
    "coordinators": "{ns}:coordinators",
    "tasks": "{ns}:tasks",
    "task": "{ns}:task:@1:@2",
    "access": "{ns}:access",
    "key": "{ns}:key:@1",
    "api_keys": "{ns}:keys",
    "keys_of": "{ns}:keys:of:@1",
    "tenants": "{ns}:tenants",
    "tenant": "{ns}:tenant:@1",
    "quota": "{ns}:quota:@1",
    "usage": "{ns}:usage:@1",
    "audit": "{ns}:audit",
    "conversation": "{ns}:conversation:@1",
    "chats_of": "{ns}:chats:of:@1",
    "webhook": "{ns}:webhook:@1",
    "webhooks": "{ns}:webhooks",
    "webhooks_of": "{ns}:webhooks:of:@1",
    "webhooks_due": "{ns}:webhooks:due",
    "webhook_counts": "{ns}:webhooks:counts",
    "webhook_outbox": "{ns}:webhook:@1:outbox",
    "webhook_tries": "{ns}:webhook:@1:tries",
    "webhook_dead": "{ns}:webhook:@1:dead",
    "webhook_lease": "{ns}:webhook:@1:lease",
    "look_channel": "{ns}:look",
    "api_channel": "{ns}:api:@1",
    "ctl_channel": "{ns}:ctl:@1",
    "queue": "{ns}.@1.@2",
}
"""One template per key; ``@1``, ``@2`` and ``@3`` are its arguments."""


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


def lua_keys() -> str:
    """Return Lua source that defines the same names: ``K.job(id)``, ``K.jobs()``. They are of the namespace ``ns``."""
    lines = ["local ns", "local K = {"]
    for name, template in _TEMPLATES.items():
        text = template.replace("{ns}", "")
        for place, argument in enumerate("abc", 1):
            text = text.replace(f"@{place}", f"' .. {argument} .. '")
        expression = f"ns .. '{text}'".removesuffix(" .. ''")
        lines.append(f"  {name} = function(a, b, c) return {expression} end,")
    return "\n".join([*lines, "}"])
