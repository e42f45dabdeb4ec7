"""Every event name in the logs, and what it means. A test compares the table with the calls in the code.

Names are stable, as alerts and searches depend on them. The page ``docs/reference/logs.md`` is made from this table.
"""

from __future__ import annotations

EVENTS = {
    "abandoned_job_not_cancelled": "The job of a caller who disconnected could not be cancelled: Redis stayed "
    "unreachable.",
    "ability_refused": "The engine refused a request by which its worker tries an `ability` of the model at the start. It "
    "serves everything else.",
    "abort_failed": "The engine raised an error when a run was to end early; the run was cancelled instead.",
    "access_version_unknown": "An api process could not read whether keys or tenants have changed, as Redis is "
    "unreachable.",
    "adapter_added": "An administrator added a LoRA adapter, or replaced its files.",
    "adapter_broken": "The engine cannot load a LoRA adapter; `why` says what is wrong with it. Its jobs fail with "
    "`adapter_broken`.",
    "adapter_loaded": "The engine has loaded a LoRA adapter.",
    "adapter_not_loaded": "A LoRA adapter could not be copied or loaded now; it is retried.",
    "adapter_not_taken_over": "A LoRA adapter of the settings could not be taken over, as Redis or the storage is "
    "unreachable; it is retried.",
    "adapter_pinned": "An administrator had workers keep a LoRA adapter loaded, or no longer.",
    "adapter_ready": "The engine has loaded a LoRA adapter for the first time, and answered one token with it.",
    "adapter_refused": "A LoRA adapter of the settings is not taken over; `why` says what is wrong with it.",
    "adapter_removed": "An administrator removed a LoRA adapter.",
    "adapter_taken_over": "A LoRA adapter of the settings was taken over.",
    "adapter_unloaded": "A LoRA adapter has left the engine: another needed its place, or it was removed or replaced.",
    "adapters_not_followed": "Penstock failed while it followed the pool's LoRA adapters; the line has the traceback. It is "
    "retried.",
    "adapters_not_read": "The pool's LoRA adapters could not be read, as Redis is unreachable; it is retried.",
    "adapters_not_reported": "The state of a LoRA adapter could not be written, as Redis is unreachable; it is retried.",
    "alias_removed": "An operator removed an alias of a model.",
    "alias_set": "An operator set an alias of a model.",
    "api_keys_ignored": "Keys of the setting `api_keys` have no effect, as the setting was taken over before they were set: "
    "make keys with `penstock keys create`, and remove the setting.",
    "api_keys_still_valid": "Keys were removed from the setting `api_keys`, but Redis has taken them over: revoke them "
    "with `penstock keys revoke`.",
    "api_keys_taken_over": "Redis has taken over the keys of the setting `api_keys`, with every scope but `admin`, and they "
    "stay valid until they are revoked. Set `require_keys`, remove the setting, and make an operator's key with "
    "`penstock keys create --scopes admin`.",
    "api_starting": "The api starts to listen.",
    "api_stopping": "The api was asked to end: `/health/ready` answers 503, and open calls have `shutdown_grace_s`.",
    "append_delayed": "Chunks of running streams could not be written, as Redis is unreachable; they are kept and "
    "retried.",
    "append_failed": "Penstock failed while it wrote chunks of streams; they are written with the next ones, or with "
    "the end.",
    "attempt_crashed": "Penstock itself failed during an attempt; the line has the traceback. The job is tried again.",
    "attempt_given_up": "An attempt ended without ending its job: `released` or retried (the job is queued again), "
    "or `fenced` (another attempt owns the job).",
    "backlog_cut": "More batches are active than a pool's backlog counts. Autoscalers see the rows of some of them only.",
    "batch_cancel_asked": "A caller asked to cancel a batch.",
    "batch_driver_failed": "A step of a batch failed because of a bug in Penstock; the line has the traceback. It is "
    "retried.",
    "batch_hold_not_noted": "The reason why a batch is on hold could not be written into its record, as Redis is "
    "unreachable.",
    "batch_lease_lost": "Another coordinator drives the batch now.",
    "batch_moved": "A batch changed its status.",
    "batch_paused": "A caller paused a batch.",
    "batch_promoted": "A batch's next chunks are submitted in a higher lane, as its window closes soon.",
    "batch_resumed": "A caller resumed a batch.",
    "batch_retried": "A caller retried a batch's failed rows, as a new batch.",
    "batch_task_failed": "A verification or a retry failed because of a bug in Penstock; the line has the traceback.",
    "batch_task_given_up": "A verification or a retry was started by several coordinators, and each of them died. Its "
    "caller is answered 500.",
    "batch_task_lost": "Another coordinator performs the verification or the retry now.",
    "batch_task_waits_for_redis": "The answer of a verification or a retry could not be written, as Redis is "
    "unreachable; it is retried.",
    "batch_waits_for_queue": "A batch's chunk was not submitted, as the lane is full; it is retried.",
    "batch_waits_for_redis": "A batch's next step waits for Redis.",
    "batch_waits_for_storage": "A batch's next step waits for storage, which is failing or full.",
    "bodies_not_dropped": "The bodies of a job with `store: false` could not be dropped after the fetch of its result, as "
    "Redis is unreachable. They are dropped when `unstored_s` is over.",
    "body_not_stored": "A large request or result could not be written to the storage of files, so it is kept in Redis. "
    "The line says why.",
    "bulk_front_failed": "The process that serves a worker's bulk requests could not start; the line has the traceback.",
    "bulk_front_forgotten": "The engine ended the requests of a bulk front that was lost, which run again elsewhere.",
    "bulk_front_lost": "The process that serves a worker's bulk requests has ended. These are retried, and from now on the "
    "worker's own process serves bulk too, until it is restarted.",
    "bulk_front_misread": "A message of the bulk front could not be handled because of a bug in Penstock; the line has the "
    "traceback. The bulk front ends.",
    "bulk_front_not_forgotten": "The engine was not told that its bulk front was lost, as it is dead too.",
    "bulk_front_started": "A process of its own serves the worker's bulk requests.",
    "bury_failed": "A worker that ends could not end its lease: its jobs are taken over when the lease expires.",
    "cancel_asked": "A caller asked to cancel a job; `state` is the job's state after that.",
    "chunk_end_delayed": "The end of a batch's chunk could not be written, as Redis is unreachable; it is retried.",
    "chunk_gone": "A batch's chunk belongs to another worker now, or its batch has ended.",
    "chunk_waits_for_redis": "A batch's chunk cannot start, as Redis is unreachable; it is retried.",
    "chunk_waits_for_storage": "A batch's input or parts cannot be read, as storage is failing; it is retried.",
    "claim_unreadable": "The record of a claimed job cannot be read because of a bug in Penstock; the line has the "
    "traceback. The job is given back.",
    "claims_do_not_rest": "A swap, or new weights, have waited for half a minute for Celery to stop asking for jobs. Redis "
    "may be unreachable.",
    "claims_given_back": "Jobs counted as this worker's, and it did not know them: the answer to their claim was lost. "
    "They are queued again, at no cost.",
    "claims_not_delivered": "Celery did not hand claimed jobs on; a line before this one may say why. They are queued "
    "again, at no cost.",
    "close_cut_short": "A worker that ends could not end its lease or stop its engine in time; it ends all the same.",
    "close_failed": "The close of a worker failed because of a bug in Penstock or its engine; the line has the "
    "traceback. The worker ends all the same.",
    "commit_delayed": "Rows that are in storage could not be counted, as Redis is unreachable; it is retried.",
    "commit_waits_for_storage": "Finished rows could not be written, as storage is failing or full; they are kept "
    "and retried.",
    "connection_refused": "Bytes that never became a request were refused: too large, too slow, not HTTP, or one connection "
    "too many. `code` says which.",
    "coordinator_ended": "The coordinator has given its batches back and ends.",
    "coordinator_ends_by_force": "Something in the coordinator hung after a stop was asked for. The process ends; others "
    "continue when its leases have run out.",
    "coordinator_starting": "The coordinator starts to look for batches.",
    "coordinator_waits_for_redis": "The coordinator cannot look for batches, as Redis is unreachable.",
    "count_failed": "The engine raised an error while it counted a prompt's tokens.",
    "count_not_asked": "A prompt's tokens could not be counted, as Redis is unreachable; the request is accepted "
    "uncounted.",
    "count_not_told": "A worker's count of a prompt's tokens did not reach its api.",
    "count_too_slow": "A worker gave up counting a prompt's tokens, as the api no longer waits for the count.",
    "count_unanswered": "No worker counted a prompt's tokens in time; the request is accepted uncounted.",
    "declared_pool_unreadable": "A declaration in Redis cannot be read and counts for nothing. Declare the pool anew.",
    "device": "The devices that the worker runs on: its GPUs, or the CPU.",
    "drain_asked": "A caller asked these workers to drain.",
    "drain_deadline": "The time for running jobs is over; jobs that still run are released.",
    "draining": "The worker takes no more jobs and finishes those that run.",
    "echo_refused": "Redis refused the echo by which a subscription checks that it is alive; the subscription "
    "reconnects.",
    "end_delayed": "The end of an attempt could not be written, as Redis is unreachable; it is retried.",
    "ending_forced": "A worker did not end in time, for example because Redis does not answer, and was ended by "
    "force. `closed`: its lease had ended and its engine had stopped.",
    "engine_abort_late": "vLLM's engine process did not answer an abort in time. The response lacks the last tokens, which "
    "that process held back.",
    "engine_asleep": "The model was taken off the devices, for another of its swap group. `took_ms`: by the engine, "
    "after the running jobs.",
    "engine_awake": "The model is on the devices again, and the worker takes jobs. `took_ms`: by the engine.",
    "engine_dead": "The engine died, or could not be reached, while it ran a job.",
    "engine_died": "The engine was found dead, or takes no step. The worker releases its jobs and ends with status 1.",
    "engine_paced": "The engine is paced: it computes nothing, its tokens are made up, and its steps take the time of "
    "these constants. Its figures are of scheduling, never of a model.",
    "engine_priority_unknown": "The engine's server takes priorities, and does not say whether it follows them.",
    "engine_priority_without_effect": "The engine ignores or refuses priorities, so calls wait behind the bulk that it "
    "holds; `advice` says what to do.",
    "engine_ready": "The engine has loaded its model.",
    "engine_salt_refused": "The server behind the engine refuses `cache_salt`: requests are sent without one, so tenants "
    "share its prefix cache.",
    "engine_starting": "The engine starts to load its model.",
    "event_stream_cut": "A reader's event stream was ended early; the reader can resume it at the same place.",
    "event_unreadable": "An event of a job is encrypted and cannot be read: this process lacks the key, or the event was "
    "changed. Its reader gets the error.",
    "first_node_gone": "The worker that is the first node of this engine has no lease any more; the node ends its "
    "processes, and begins anew for the worker's next start.",
    "gpu_does_not_say": "The driver does not report one of a GPU's figures; that metric has no series.",
    "gpus_not_read": "The driver failed to report the GPUs' figures.",
    "heartbeat_failed": "The lease could not be prolonged, as Redis is unreachable.",
    "hub_waits_for_redis": "The api serves requests, but cannot follow jobs yet, as Redis is unreachable.",
    "image_tokens_unknown": "The model's processor does not tell how many tokens its largest image takes: prompts with "
    "images are not checked against the context before they are queued.",
    "issuer_keys": "An api has new public keys of the OIDC issuer.",
    "issuer_unavailable": "The OIDC issuer's public keys could not be fetched; those at hand are used for "
    "`oidc_max_stale_s`.",
    "job_accepted": "A job is queued, and on disk.",
    "job_claimed": "A worker started an attempt.",
    "job_crashed": "The code that runs jobs failed because of a bug in Penstock; the line has the traceback.",
    "job_deleted": "A caller deleted a job that had ended.",
    "job_ended": "A waiting caller has received the job's end.",
    "job_failed": "A job ended as `failed`, with this code.",
    "job_finished": "A job ended: `succeeded`, `cancelled` or `expired`.",
    "job_known": "A submission was answered with an earlier job: it has the same idempotency key, or was retried "
    "before.",
    "job_moved": "A caller moved a queued job to another lane, or made it the next of its lane.",
    "job_not_given_back": "After `attempt_crashed` the job could not be given back. The worker ends with status 1, so "
    "that the job moves on.",
    "job_retried": "A caller retried a finished job, as a new job.",
    "jobs_abandoned": "A worker that ends could not give these jobs back in time, as Redis is unreachable or slow. "
    "They move on when its lease ends.",
    "key_created": "An administrator made an API key, `of` a tenant.",
    "key_revoked": "An administrator revoked an API key.",
    "key_rotated": "An administrator gave an API key a new secret; the one before is right for `overlap_s`.",
    "keys_not_read": "An api could not see whether keys have changed, as Redis is unreachable; after two seconds it answers "
    "503.",
    "kv_cache_sized": "On a CPU: the size of vLLM's KV cache, and the free memory and weights that it comes from.",
    "lane_purged": "A caller cancelled the jobs that waited in a lane.",
    "lane_report_failed": "The engine's scheduler did not say what it has evicted, and what a step costs.",
    "lane_scheduler_unavailable": "vLLM's own scheduler is used: calls and bulk share its steps. `reason` says why.",
    "lease_lost": "The worker's lease expired and its jobs were given to others. It ends with status 1.",
    "lease_not_prolonged": "The lease of a batch could not be prolonged, as Redis is unreachable.",
    "libraries_dropped": "Versions of the library of functions that no live process uses were deleted from Redis.",
    "limits_not_stored": "The limits of the queues could not be stored, as Redis is unreachable; it is retried.",
    "limits_stored": "The limits of the queues are in Redis.",
    "look_delayed": "The record or the log of a job that a caller waits for could not be read, as Redis is unreachable; "
    "it is retried.",
    "look_failed": "The place of an accepted job in its queue could not be read, as Redis is unreachable. The answer leaves "
    "it out.",
    "loop_stalled": "The worker's event loop hangs at the place that `stack` shows. The worker ends with status 1.",
    "message_not_taken": "A published message could not be read. It is skipped; its content also arrives another way.",
    "migration_begun": "The data of an earlier version in Redis is being rewritten. The process starts when that is done.",
    "migration_done": "The data of an earlier version was taken over; `jobs` says how many jobs there were.",
    "name_declared_twice": "The declaration of this worker's pool and that of the pool `other` give `name` to different "
    "models: an older version stored them. The worker serves. Change one of the declarations.",
    "no_gpu_metrics": "There is no NVIDIA driver, or it does not answer: there are no GPU metrics.",
    "no_redis_metrics": "Redis's access rules forbid `INFO` to the api: Redis's own figures are not exported.",
    "node_ended": "The processes of a remote node ended by themselves; they are started again.",
    "node_started": "A remote node started the processes of its rank; `master` is where they join the first node.",
    "nodes_unknown": "Redis could not be asked about the nodes of an engine; it is asked again.",
    "object_left_behind": "An object without a file could not be marked for deletion, as Redis is unreachable; it "
    "stays in storage.",
    "open_files_limit_low": "The system allows the api fewer open files than `max_connections` needs: raise `ulimit -n`.",
    "order_not_known": "Redis told a worker to stop a job for a reason that this version does not know. The job "
    "continues.",
    "orphan_not_noted": "An object that no job needs was deleted, but Redis is unreachable, so the sweep deletes it once "
    "more.",
    "parsers_chosen": "Which of vLLM's parsers of tool calls and of reasoning a model starts with, and why. Settings: "
    "`tool_parser`, `reasoning_parser`.",
    "pod_cost_not_told": "Kubernetes did not take the annotation that says how busy this worker is; it is told again later.",
    "pool_declared": "An operator declared a pool that scales from zero. `changed` is false if it was so before.",
    "pool_name_taken": "A pool of the settings is not declared: its name `name` means the model `model` in the pool "
    "`declared`, by a declaration by the api, a live worker or a LoRA adapter, or as an operator's alias (null). Change one "
    "of them, then start an api process again.",
    "pool_paused": "A caller paused a pool. `changed` is false if it was paused before.",
    "pool_resumed": "A caller resumed a pool. `changed` is false if it was not paused.",
    "pool_settings_ignored": "The settings declare pools that an operator has declared otherwise by the api, which decides.",
    "pool_undeclared": "An operator removed the declaration of a pool that scales from zero.",
    "pool_unpoisoned": "An operator had a pool take kinds of requests again that had killed its engines.",
    "pools_declared": "What the settings say of pools that scale from zero is effective now: declared, changed or removed.",
    "prompts_not_counted": "The engine cannot count tokens, so the engine alone refuses prompts that are too long.",
    "reader_cut": "A client did not read its answer for `write_timeout_s`; its connection was cut.",
    "reaped": "The reaper requeued, failed or expired jobs. `requeued_jobs` and "
    "`failed_jobs` name up to twenty jobs each that it took from lost workers.",
    "redis_back": "Redis can be reached again.",
    "redis_unavailable": "Redis cannot be reached.",
    "registration_waits": "Another worker, not heard of yet, serves other models in this pool, or uses a name of "
    "this worker's. If it is alive, this worker ends; otherwise this worker waits until that lease ends.",
    "render_order_unavailable": "This vLLM's renderer is not known, so calls wait for the templates and tokens of bulk that "
    "came before them.",
    "request_failed": "A request was answered with a status of 500 or above; logged at most once a second for one "
    "kind.",
    "request_not_fetched": "A worker could not read a large request from the storage of files. The job is tried again.",
    "request_refused": "A request was answered with a status of 400 to 499. 429 is logged at level info, at most "
    "once a second; all others at level debug.",
    "request_unreadable": "A worker cannot decrypt a job's request: it lacks the key (the job is tried again, maybe "
    "elsewhere), or the request was changed (the job fails).",
    "revoked": "Jobs were cancelled by Celery's revoke, for example from Flower.",
    "rollout_asked": "An operator started, aborted or returned from a new version of a model, or switched pools.",
    "row_crashed": "The code around the engine failed while it ran a batch's row, which fails with `internal_error`.",
    "row_failed_here": "Penstock itself failed while it ran a row of a batch; the line has the traceback. The row ends "
    "as failed.",
    "row_lost": "The code around a batch's row failed. The row was not finished; another attempt at its chunk runs it.",
    "run_crashed": "The code around the engine failed while it ran a job, which fails with `internal_error`.",
    "sampling_not_mended": "A speculating engine runs vLLM's own sampling, as the functions that Penstock replaces in its "
    "workers are others: a sampled request with `top_k` may end it.",
    "schema_refused": "The data in Redis belongs to a newer version of Penstock, or a process of an earlier version works "
    "with it. The process accepts no job; `error` says what to do.",
    "signal": "The worker received a signal.",
    "spans_left_behind": "The collector did not accept the last spans in time; they are lost.",
    "storage_not_compared": "A process could not find out whether it has the same storage of files as the api. It tries "
    "again, and large bodies stay in Redis meanwhile.",
    "storage_not_shared": "A process no longer finds the object by which it knows the storage of files, so large bodies "
    "stay in Redis from now on: give every process the same `files_url`.",
    "store_fault": "Redis refused a function or a command (`command`) because it or the data is wrong. It is not retried; "
    "at most one line in ten seconds for each of them.",
    "stream_form_not_learned": "The form of vLLM's stream on this endpoint could not be learned. Its streams are "
    "passed on chunk by chunk, which costs the worker more.",
    "subscription_failed": "A subscription to Redis ended because of a bug in Penstock or redis-py; the line has the "
    "traceback. It is opened again.",
    "subscription_lost": "The connection that carries events was lost; it is opened again, and the gap is read from "
    "the logs.",
    "swap_decided": "A member of a swap group decided, for all of them, which workers should have the devices.",
    "swap_gives_back": "The model makes way for another, and the time for its running jobs is over: they go back to the "
    "queue.",
    "swap_grant_lost": "Redis lost this member's right to the devices and gave it to another. The model sleeps at once.",
    "swap_not_seen": "A member of a swap group could not look at it, as Redis is unreachable; everything stays as it is.",
    "swap_waits": "The worker waits for the devices of its swap group before it loads its model for the first time.",
    "sweep_failed": "Old files and parts could not be deleted; it is retried.",
    "task_ended": "A task that must run for ever ended. The process ends with status 1.",
    "task_failed": "A background loop of the api or of a coordinator failed because of a bug in Penstock; the line has the "
    "traceback. It starts again.",
    "tenant_reset": "An administrator gave a tenant (`of`) the defaults again.",
    "tenant_set": "An administrator set a tenant's (`of`) share, bounds, rights or quotas.",
    "tenant_settings_ignored": "The setting `tenants` differs from what is stored of these tenants, which were taken "
    "over before; change them with `penstock tenants set`.",
    "tenants_indexed": "The lists of each tenant's jobs, files and batches were made, for the first time on this Redis.",
    "tenants_taken_over": "The tenants of the settings have records in Redis now, which decide from then on.",
    "tls_files_read": "The api read its changed certificate; new connections get it.",
    "tls_files_refused": "The api's changed certificate cannot be used; it serves the one that it had.",
    "traces_off": "The tracing settings ask for something unsupported; there are no traces.",
    "traces_on": "Spans are sent to this collector.",
    "unexpected_error": "A request failed because of a bug in Penstock; the line has the traceback.",
    "webhook_changed": "A caller changed a webhook endpoint.",
    "webhook_created": "A caller made a webhook endpoint.",
    "webhook_deleted": "A caller deleted a webhook endpoint, and what it had not got.",
    "webhook_delivered": "A receiver has taken an event.",
    "webhook_delivery_failed": "The delivery to an endpoint failed because of a bug in Penstock; the line has "
    "the traceback. It rests for 30 seconds.",
    "webhook_disabled": "An endpoint gets no more events: each try of the last days failed, or its receiver "
    "answered 410. What it has not got is kept.",
    "webhook_failed": "A try to deliver an event failed; it is tried again after `wait_s` seconds.",
    "webhook_given_up": "An event was tried for a day and is a dead letter now.",
    "webhook_resent": "A caller asked to send an event again.",
    "webhook_rotated": "A caller made a new secret for a webhook endpoint, or for the single jobs of a tenant.",
    "webhook_waits_for_redis": "An event was sent, but that could not be noted, as Redis is unreachable; it is "
    "retried.",
    "weights_not_replaced": "The weights of a running engine stayed as they were: the line says why.",
    "weights_replaced": "A running engine has other weights, by a rollout in place.",
    "worker_ended": "The worker ends with status 1, for this reason.",
    "worker_ready": "The worker takes jobs.",
}
"""Event name: one sentence or two."""
