"""The engine's dashboard."""

from __future__ import annotations

from tools.dashboards.panels import (
    GREEN,
    RED,
    V_POOL,
    V_WORKER,
    WORKER,
    Board,
    Row,
    lines,
    quantiles,
    ratio,
)

_PROCESS = '{pool=~"$pool",worker=~"$worker",worker!=""}'
"""Every process has these, and ``.*`` takes those without the label too: the api's."""

_VLLM = '{pool=~"$pool",worker=~"$worker"}'
_SWAPS = '{pool=~"$pool",worker=~"$worker",phase=~"sleep|wake"}'

ENGINE = Board(
    "penstock-engine",
    "Penstock: engine",
    "Tokens and their times, the engine's batch and cache, the GPUs.",
    (V_POOL, V_WORKER),
    (
        Row(
            "Tokens",
            (
                lines(
                    "Tokens",
                    "short",
                    "Tokens per second of finished jobs, by kind and lane.",
                    (
                        f"sum by (kind, lane) (rate(penstock_tokens_total{WORKER}[$__rate_interval])) > 0",
                        "{{kind}} {{lane}}",
                    ),
                    stack=True,
                ),
                lines(
                    "Time to first token",
                    "s",
                    "Of streamed jobs, from the claim; the wait in the queue is not in it.",
                    *quantiles("penstock_time_to_first_token_seconds", "", WORKER, ""),
                ),
                lines(
                    "Time between tokens",
                    "s",
                    "Mean of each streamed job, by lane.",
                    *quantiles("penstock_inter_token_seconds", "lane", WORKER, "{{lane}}"),
                ),
            ),
        ),
        Row(
            "Engine",
            (
                lines(
                    "Batch",
                    "short",
                    "Requests that the engine runs, and that it holds without running them.",
                    (f"sum by (worker) (penstock_engine_requests_running{WORKER})", "running {{worker}}"),
                    (f"sum by (worker) (penstock_engine_requests_waiting{WORKER})", "waiting {{worker}}"),
                ),
                lines(
                    "KV cache",
                    "percentunit",
                    "Part that is in use.",
                    (f"max by (worker) (penstock_engine_kv_cache_usage_ratio{WORKER})", "{{worker}}"),
                    thresholds=((None, GREEN), (0.95, RED)),
                ),
                lines(
                    "Slots",
                    "short",
                    "Jobs that run, and that may.",
                    (f"sum by (worker) (penstock_jobs_running{WORKER})", "running {{worker}}"),
                    (f"sum by (worker) (penstock_capacity_jobs{WORKER})", "capacity {{worker}}"),
                ),
                lines(
                    "Deadline margin",
                    "s",
                    "What was left of the lives of jobs that had a deadline, when they ended.",
                    *quantiles("penstock_deadline_margin_seconds", "lane", WORKER, "{{lane}}"),
                ),
                lines(
                    "CPU of the workers",
                    "short",
                    "Cores; vLLM's engine process is not in it.",
                    (
                        f"sum by (worker) (rate(process_cpu_seconds_total{_PROCESS}[$__rate_interval]))",
                        "{{worker}}",
                    ),
                ),
                lines(
                    "Memory of the workers",
                    "bytes",
                    "Resident; vLLM's engine process is not in it.",
                    (f"sum by (worker) (process_resident_memory_bytes{_PROCESS})", "{{worker}}"),
                ),
            ),
        ),
        Row(
            "vLLM",
            (
                lines(
                    "Throughput",
                    "short",
                    "Tokens per second as vLLM's scheduler sees them, at every step.",
                    (f"sum(rate(vllm:prompt_tokens_total{_VLLM}[$__rate_interval]))", "prompt"),
                    (f"sum(rate(vllm:generation_tokens_total{_VLLM}[$__rate_interval]))", "generation"),
                ),
                lines(
                    "Requests",
                    "short",
                    "In vLLM's scheduler.",
                    (f"sum(vllm:num_requests_running{_VLLM})", "running"),
                    (f"sum(vllm:num_requests_waiting{_VLLM})", "waiting"),
                ),
                lines(
                    "Prefill and decode",
                    "s",
                    "Mean time of a request in each phase.",
                    *(
                        (
                            ratio(
                                f"sum(rate(vllm:request_{phase}_time_seconds_sum{_VLLM}[$__rate_interval]))",
                                f"sum(rate(vllm:request_{phase}_time_seconds_count{_VLLM}[$__rate_interval]))",
                            ),
                            phase,
                        )
                        for phase in ("queue", "prefill", "decode")
                    ),
                ),
                lines(
                    "Between tokens",
                    "s",
                    "vLLM's own measure, of every request.",
                    *quantiles("vllm:inter_token_latency_seconds", "", _VLLM, ""),
                ),
                lines(
                    "Prefix cache",
                    "percentunit",
                    "Part of the prompt tokens that were found in the cache.",
                    (
                        ratio(
                            f"sum(rate(vllm:prefix_cache_hits_total{_VLLM}[$__rate_interval]))",
                            f"sum(rate(vllm:prefix_cache_queries_total{_VLLM}[$__rate_interval]))",
                        ),
                        "hits",
                    ),
                ),
                lines(
                    "Speculation",
                    "percentunit",
                    "Part of the guessed tokens that the model accepted. Empty without speculative decoding.",
                    (
                        ratio(
                            f"sum by (worker) (rate(penstock_spec_accepted_tokens_total{WORKER}[$__rate_interval]))",
                            f"sum by (worker) (rate(penstock_spec_drafted_tokens_total{WORKER}[$__rate_interval]))",
                        ),
                        "{{worker}}",
                    ),
                ),
                lines(
                    "Accepted tokens in a step",
                    "short",
                    "Guessed tokens that a sequence gains in a step, beside the one that it makes anyway.",
                    (
                        ratio(
                            f"sum by (worker) (rate(penstock_spec_accepted_tokens_total{WORKER}[$__rate_interval]))",
                            f"sum by (worker) (rate(penstock_spec_drafts_total{WORKER}[$__rate_interval]))",
                        ),
                        "{{worker}}",
                    ),
                ),
                lines(
                    "Preemptions",
                    "short",
                    "Requests per second that were taken out of the batch for want of KV cache.",
                    (
                        f"sum by (worker) (rate(penstock_engine_preemptions_total{WORKER}[$__rate_interval]))",
                        "{{worker}}",
                    ),
                ),
                lines(
                    "Swaps",
                    "percentunit",
                    "Share of the time in which models that share devices are loaded or taken off.",
                    (
                        f"sum by (worker) (rate(penstock_swap_seconds_sum{_SWAPS}[$__rate_interval]))",
                        "{{worker}}",
                    ),
                ),
            ),
        ),
        Row(
            "GPUs",
            (
                lines(
                    "Utilisation",
                    "percentunit",
                    "Part of the time in which a kernel ran.",
                    (
                        f"max by (host, gpu, uuid) (penstock_gpu_utilization_ratio{WORKER})",
                        "{{host}} {{gpu}}",
                    ),
                ),
                lines(
                    "Memory",
                    "bytes",
                    "In use by every process, and all of it.",
                    (
                        f"max by (host, gpu, uuid) (penstock_gpu_memory_used_bytes{WORKER})",
                        "used {{host}} {{gpu}}",
                    ),
                    (
                        f"max by (host, gpu, uuid) (penstock_gpu_memory_total_bytes{WORKER})",
                        "all {{host}} {{gpu}}",
                    ),
                ),
                lines(
                    "Temperature",
                    "celsius",
                    "Of the die.",
                    (
                        f"max by (host, gpu, uuid) (penstock_gpu_temperature_celsius{WORKER})",
                        "{{host}} {{gpu}}",
                    ),
                    thresholds=((None, GREEN), (88, RED)),
                ),
                lines(
                    "Power",
                    "watt",
                    "Drawn, and the limit.",
                    (
                        f"max by (host, gpu, uuid) (penstock_gpu_power_watts{WORKER})",
                        "drawn {{host}} {{gpu}}",
                    ),
                    (
                        f"max by (host, gpu, uuid) (penstock_gpu_power_limit_watts{WORKER})",
                        "limit {{host}} {{gpu}}",
                    ),
                ),
                lines(
                    "Tensor cores (DCGM)",
                    "percentunit",
                    "Part of the cycles in which the tensor cores worked; needs dcgm-exporter.",
                    ("max by (Hostname, gpu) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)", "{{Hostname}} {{gpu}}"),
                ),
                lines(
                    "XID errors (DCGM)",
                    "short",
                    "The last error's number; 0 for none; needs dcgm-exporter.",
                    ("max by (Hostname, gpu) (DCGM_FI_DEV_XID_ERRORS)", "{{Hostname}} {{gpu}}"),
                ),
            ),
        ),
    ),
)
