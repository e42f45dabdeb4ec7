"""Every Redis key, channel and queue name, for Python and for the Lua scripts. Nothing else spells one.

Schema (``ns`` is the namespace, ``penstock`` by default). Times are Unix milliseconds of the Redis server's clock.

==============================  =======  =====================================================================
key                             type     holds                                                      (lifetime)
==============================  =======  =====================================================================
``ns:job:<id>``                 hash     the job's record     (TTL ``retention_s`` from its end; none before it)
``ns:log:<id>``                 stream   a streamed job's chunks, entry id ``<attempt>-<seq>``     (as the record)
``ns:jobs``                     zset     every job by creation time        (entries leave with their records)
``ns:jobs:state:<state>``       zset     the same, by state                                          (likewise)
``ns:jobs:model:<model>``       zset     the same, by model                                          (likewise)
``ns:queued:<queue>``           zset     jobs waiting in a queue, by the time they entered it   (until claimed)
``ns:queues``                   set      queues that ever held a job                                  (for good)
``ns:high_water``               hash     per queue, entry time of the last job claimed from it        (for good)
``ns:deadlines``                zset     unfinished jobs with a deadline, by deadline            (until the end)
``ns:delayed``                  zset     queued jobs that wait for their next attempt, by its time       (until then)
``ns:dead``                     zset     jobs that failed or expired and were not repeated, by their end    (likewise)
``ns:retire``                   zset     finished jobs, by when their index entries go       (until they are gone)
``ns:idem:<tenant>:<key>``      string   ``<job id> <digest of the submission>``            (TTL ``retention_s``)
``ns:workers``                  zset     worker incarnations, by the end of their lease       (until buried)
``ns:worker:<w>``               hash     what a worker says of itself                        (TTL, ten leases)
``ns:worker:<w>:jobs``          set      jobs it runs                                        (until it has none)
``ns:worker:<w>:cancels``       hash     jobs it must abort: id -> reason; ``drain`` -> seconds   (until the end)
``ns:models``                   hash     served models: name -> facts as JSON                         (for good)
``ns:envelope``                 string   the Celery message with placeholders, see ``envelope.py``    (for good)
``ns:reaper``                   hash     ``tick``: last round; ``hold``: no reaping of workers before  (for good)
``ns.<pool>.<lane>``            list     a lane's Celery messages; also the Celery queue's name   (until popped)
``_kombu.binding.<queue>``      set      Celery's own                                                 (for good)
==============================  =======  =====================================================================

Channels: ``ns:api:<process>`` carries job events and workers' answers to an api process, ``ns:ctl:<worker>`` commands and
questions to a worker.
"""

from __future__ import annotations

from dataclasses import dataclass

_TEMPLATES = {
    "job": "{ns}:job:@1",
    "log": "{ns}:log:@1",
    "jobs": "{ns}:jobs",
    "by_state": "{ns}:jobs:state:@1",
    "by_model": "{ns}:jobs:model:@1",
    "queued": "{ns}:queued:@1",
    "queues": "{ns}:queues",
    "high_water": "{ns}:high_water",
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
    "api_channel": "{ns}:api:@1",
    "ctl_channel": "{ns}:ctl:@1",
    "queue": "{ns}.@1.@2",
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

    def lua(self) -> str:
        """Return Lua source that defines the same names: ``K.job(id)``, ``K.jobs()``, ``K.queue(pool, lane)``."""
        lines = ["local K = {}"]
        for name, template in _TEMPLATES.items():
            text = template.replace("{ns}", self.namespace)
            expression = "'" + text.replace("@1", "' .. a .. '").replace("@2", "' .. b .. '") + "'"
            expression = expression.removesuffix(" .. ''")
            lines.append(f"function K.{name}(a, b) return {expression} end")
        return "\n".join(lines) + "\n"
