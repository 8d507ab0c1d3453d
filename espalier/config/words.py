"""Every word of SGLang's and vLLM's that users type, and what it means here. Data only.

A word is one of: a setting under another name; something said about a setting (`Says`); accepted
without effect, with a notice that says why; or refused by name, with a way out. A capability that
is built later moves its words from the last table to the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Says:
    """A switch: that it is given sets `path` to `value`."""

    path: str
    value: Any


@dataclass(frozen=True, slots=True)
class Unless:
    """Asking for one of the `harmless` values changes nothing; any other is refused."""

    harmless: tuple[str, ...]
    hint: str


SETTINGS: Mapping[str, str] = {
    "model-path": "model.path",
    "model": "model.path",
    "served-model-name": "model.served_name",
    "revision": "model.revision",
    "download-dir": "model.download_dir",
    "dtype": "model.dtype",
    "context-length": "model.context_length",
    "max-model-len": "model.context_length",
    "load-format": "model.load_format",
    "tokenizer-path": "model.tokenizer_path",
    "tokenizer": "model.tokenizer_path",
    "chat-template": "model.chat_template",
    "random-seed": "model.seed",
    "seed": "model.seed",
    "mem-fraction-static": "cache.memory_fraction",
    "gpu-memory-utilization": "cache.memory_fraction",
    "memory": "cache.memory_bytes",
    "kv-cache-dtype": "cache.dtype",
    "max-total-tokens": "cache.max_tokens",
    "page-size": "cache.page_size",
    "block-size": "cache.page_size",
    "radix-cache-num-tokens": "cache.max_cached_tokens",
    "radix-eviction-policy": "cache.eviction",
    "max-running-requests": "scheduler.max_running",
    "max-num-seqs": "scheduler.max_running",
    "max-prefill-tokens": "scheduler.max_step_tokens",
    "max-num-batched-tokens": "scheduler.max_step_tokens",
    "chunked-prefill-size": "scheduler.chunk_tokens",
    "long-prefill-token-threshold": "scheduler.chunk_tokens",
    "target-itl-ms": "scheduler.target_itl_ms",
    "schedule-policy": "scheduler.policy",
    "scheduling-policy": "scheduler.policy",
    "max-queued-requests": "scheduler.max_queued",
    "tp-size": "parallel.tensor",
    "tp": "parallel.tensor",
    "tensor-parallel-size": "parallel.tensor",
    "speculative-algorithm": "speculative.algorithm",
    "speculative-num-draft-tokens": "speculative.num_draft_tokens",
    "num-speculative-tokens": "speculative.num_draft_tokens",
    "device": "kernels.device",
    "attention-backend": "kernels.attention",
    "threads": "kernels.threads",
    "host": "server.host",
    "port": "server.port",
    "api-key": "server.api_key",
    "admin-api-key": "server.admin_api_key",
    "log-level": "server.log_level",
}

SWITCHES: Mapping[str, Says] = {
    "trust-remote-code": Says("model.trust_remote_code", True),
    "disable-radix-cache": Says("cache.sharing", False),
    "no-enable-prefix-caching": Says("cache.sharing", False),
    "no-async-scheduling": Says("scheduler.look_ahead", 0),
    "async-scheduling": Says("scheduler.look_ahead", 1),
    "enable-prefix-caching": Says("cache.sharing", True),
    "skip-tokenizer-init": Says("model.skip_tokenizer", True),
    "disable-overlap-schedule": Says("scheduler.look_ahead", 0),
    "enable-deterministic-inference": Says("kernels.deterministic", True),
    "deterministic": Says("kernels.deterministic", True),
    "enable-metrics": Says("server.metrics", True),
}

# Values that users of the peers write, under our names.
VALUES: Mapping[str, Mapping[str, Any]] = {
    "model.dtype": {
        "half": "float16",
        "fp16": "float16",
        "float": "float32",
        "fp32": "float32",
        "bf16": "bfloat16",
        # what torch's own types are called
        "torch.float16": "float16",
        "torch.float32": "float32",
        "torch.bfloat16": "bfloat16",
    },
    "cache.dtype": {"bf16": "bfloat16", "half": "float16", "float": "float32"},
    "kernels.attention": {"torch_native": "reference", "TORCH_SDPA": "reference"},
    "speculative.algorithm": {"NGRAM": "ngram"},
    "scheduler.chunk_tokens": {"-1": None},
    "model.load_format": {"hf": "auto"},
    "server.log_level": {"warn": "warning", "fatal": "critical"},
}

# Two ways to say one thing: at most one of them is said.
EXCLUSIVE: tuple[tuple[str, str], ...] = (("cache.memory_bytes", "cache.memory_fraction"),)

_KV_FORMATS = "leave it out: keys and values are kept in the model's own format"
_DRAFTS = "--speculative-algorithm NGRAM needs no draft model, and never changes the text"
_ATTENTION = "leave it out: the best that is built is chosen; `espalier explain` says which"
_LOADS = "weights are read from safetensors: leave it out; pickles are never loaded"
# Values that the peers know and we have not built: patterns, and a way out.
NOT_BUILT_VALUES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "cache.dtype": (
        ("fp8*", "fp4*", "int8*", "int4*", "nvfp4", "mxfp8", "turboquant*"),
        _KV_FORMATS,
    ),
    "speculative.algorithm": (
        ("eagle*", "nextn", "standalone", "medusa", "mtp", "dflash*", "dspark*", "draft_model"),
        _DRAFTS,
    ),
    "kernels.attention": (
        ("flash*", "fa[0-9]", "triton*", "trtllm*", "cutlass*", "aiter*", "xformers", "*_attn"),
        _ATTENTION,
    ),
    "model.load_format": (
        ("pt", "npcache", "gguf", "bitsandbytes", "layered", "sharded_state", "tensorizer"),
        _LOADS,
    ),
    "model.dtype": (("fp8*", "int8", "int4"), _KV_FORMATS.replace("keys and values", "weights")),
    "scheduler.policy": (
        ("routing-key", "hrrn", "shortest-prefill-first"),
        "fcfs is fair and lpm shares the most; `espalier help` lists the rest",
    ),
}

_STEPS = "steps are mixed and prompts are taken in chunks always"
_GRAPHS = "whole-step graphs are not built yet; nothing is lost but speed on a GPU"
_FLASH = "the fastest attention that is built is chosen; see `espalier explain`"
_COMPILE = "the engine's own kernels are used in place of torch.compile"
_UNLOGGED = "requests and steps are not logged; `Engine.statistics` counts them"
_NO_COMPETITOR = "there is nothing of that kind to be turned off"
# Switches that have no effect.
NOTICES: Mapping[str, str] = {
    "enable-flashinfer": _FLASH,
    "disable-flashinfer": _FLASH,
    "disable-flashinfer-autotune": _NO_COMPETITOR,
    "disable-cuda-graph": _GRAPHS,
    "disable-cuda-graph-padding": _GRAPHS,
    "disable-prefill-cuda-graph": _GRAPHS,
    "disable-decode-cuda-graph": _GRAPHS,
    "disable-piecewise-cuda-graph": _GRAPHS,
    "enforce-eager": _GRAPHS,
    "no-enforce-eager": _GRAPHS,
    "enable-torch-compile": _COMPILE,
    "disable-custom-all-reduce": "there is no custom all-reduce to be turned off",
    "enable-p2p-check": _NO_COMPETITOR,
    "enable-mixed-chunk": _STEPS,
    "enable-chunked-prefill": _STEPS,
    "enable-dynamic-chunking": _STEPS,
    "disable-chunked-prefix-cache": _NO_COMPETITOR,
    "disable-hybrid-swa-memory": _NO_COMPETITOR,
    "enable-cache-report": "cached tokens are always reported",
    "enable-prompt-tokens-details": "cached tokens are always reported",
    "enable-priority-scheduling": "a request's priority always counts; higher goes first",
    "disable-log-stats": _UNLOGGED,
    "disable-log-requests": _UNLOGGED,
    "no-enable-log-requests": _UNLOGGED,
    "log-requests": _UNLOGGED,
    "enable-log-requests": _UNLOGGED,
    "skip-server-warmup": "there is no warm-up to be skipped",
    "disable-outlines-disk-cache": _NO_COMPETITOR,
    "triton-attention-reduce-in-fp32": "sums are kept in float32 always",
    "disable-fast-image-processor": "this engine takes text only",
    "use-v2-block-manager": "there is one manager of pages",
    "no-enable-chunked-prefill": _STEPS,
    "disable-cascade-attn": _NO_COMPETITOR,
    "disable-frontend-multiprocessing": _NO_COMPETITOR,
    "disable-hybrid-kv-cache-manager": _NO_COMPETITOR,
    "disable-uvicorn-access-log": "the HTTP server is not built yet",
}
# The same, but they take a value.
VALUED_NOTICES: Mapping[str, str] = {
    "cuda-graph-max-bs": _GRAPHS,
    "cuda-graph-max-bs-decode": _GRAPHS,
    "cuda-graph-max-bs-prefill": _GRAPHS,
    "cuda-graph-bs": _GRAPHS,
    "cuda-graph-bs-decode": _GRAPHS,
    "cuda-graph-bs-prefill": _GRAPHS,
    "compilation-config": _COMPILE,
    "torch-compile-max-bs": _COMPILE,
    "sampling-backend": "tokens are drawn by the engine's own kernels",
    "swap-space": "what is put back stays in the prefix cache, and is not swapped",
    "watchdog-timeout": "the watchdog comes with the server",
    "stream-interval": "say it with a request's sampling parameters",
    "schedule-conservativeness": "the plan counts pages; there is nothing to be estimated",
    "num-continuous-decode-steps": "requests may join at every step",
    "tokenizer-mode": "the tokenizer's own files say what it is",
    "decode-log-interval": _UNLOGGED,
    "log-requests-level": _UNLOGGED,
    "max-log-len": _UNLOGGED,
    "max-logprobs": "the limits of a request are in `espalier.config.limits`",
    "uvicorn-log-level": "the HTTP server is not built yet",
    "log-level-http": "the HTTP server is not built yet",
    "max-seq-len-to-capture": _GRAPHS,
    "num-scheduler-steps": "requests may join at every step",
    "max-num-partial-prefills": _STEPS,
    "preemption-mode": "what is put back stays in the prefix cache",
    "prefix-caching-hash-algo": "prefixes are compared by their tokens, not by a hash",
    "code-revision": "code from a checkpoint is never run",
}

# These take all words up to the next flag.
LISTS = frozenset(
    {
        "router-hosts",
        "worker-urls",
        "lora-paths",
        "lora-modules",
        "cuda-graph-bs",
        "cuda-graph-bs-decode",
        "cuda-graph-bs-prefill",
    }
)

_ONE = ("1",)
_SPEC = "the drafts that are built need no model: --speculative-algorithm NGRAM"
_PD = "one engine does both; leave it out"
_QUANT = (
    "quantized weights are not built yet; serve the model in bfloat16 (leave the flag out), or a "
    "smaller model: `espalier plan` says what fits"
)
_LORA = "adapters are not built yet; merge the adapter into the checkpoint"
_ENGINES = "start several engines, with ports and devices of their own"
_TEXT = "this engine takes text only"
_GRAMMAR = "structured output is not built yet; ask for the form in the prompt"
_TIERS = "tiers of the cache are not built yet; give the cache more memory"
_ROUTER = "the router is not built yet; use a proxy that you have"
_ATTENTION_SPLIT = "leave it out; attention is split by --tp"
_NODES = "one machine is what is built; --tp spreads a model over its devices"
REFUSED: Mapping[str, Unless] = {
    "quantization": Unless(("none",), _QUANT),
    "dp-size": Unless(_ONE, _ENGINES),
    "dp": Unless(_ONE, _ENGINES),
    "data-parallel-size": Unless(_ONE, _ENGINES),
    "pp-size": Unless(_ONE, "use --tp to spread a model over several devices"),
    "pipeline-parallel-size": Unless(_ONE, "use --tp to spread a model over several devices"),
    "ep-size": Unless(_ONE, "experts are split by --tp"),
    "ep": Unless(_ONE, "experts are split by --tp"),
    "expert-parallel-size": Unless(_ONE, "experts are split by --tp"),
    "moe-dp-size": Unless(_ONE, "experts are split by --tp"),
    "moe-data-parallel-size": Unless(_ONE, "experts are split by --tp"),
    "attn-dp-size": Unless(_ONE, _ATTENTION_SPLIT),
    "attn-cp-size": Unless(_ONE, _ATTENTION_SPLIT),
    "dcp-size": Unless(_ONE, _ATTENTION_SPLIT),
    "nnodes": Unless(_ONE, _NODES),
    "node-rank": Unless(("0",), _NODES),
    "dist-init-addr": Unless((), _NODES),
    "speculative-draft-model-path": Unless((), _SPEC),
    "speculative-draft-model": Unless((), _SPEC),
    "speculative-num-steps": Unless((), _SPEC),
    "speculative-eagle-topk": Unless((), _SPEC),
    "speculative-config": Unless((), _SPEC),
    "disaggregation-mode": Unless(("null",), _PD),
    "disaggregation-transfer-backend": Unless((), _PD),
    "disaggregation-bootstrap-port": Unless((), _PD),
    "lora-paths": Unless((), _LORA),
    "lora-modules": Unless((), _LORA),
    "max-loras-per-batch": Unless((), _LORA),
    "cpu-offload-gb": Unless(("0",), "weights stay on one device; `espalier plan` says what fits"),
    "grammar-backend": Unless(("none",), _GRAMMAR),
    "tool-call-parser": Unless((), "tool calls are not built yet"),
    "reasoning-parser": Unless((), "reasoning parsers are not built yet"),
    "hicache-ratio": Unless((), _TIERS),
    "json-model-override-args": Unless(("{}",), "change the checkpoint's config.json"),
    "router-hosts": Unless((), _ROUTER),
    "router-port": Unless((), _ROUTER),
    "cache-threshold": Unless((), _ROUTER),
    "policy": Unless((), "the router is not built yet; a queue's order is --schedule-policy"),
    "worker-urls": Unless((), _ROUTER),
    "kv-cache-memory-bytes": Unless(
        (), "--memory 6GB says all that the engine may use, or --max-total-tokens"
    ),
    "quantization-param-path": Unless((), _QUANT),
    "max-lora-rank": Unless((), _LORA),
    "max-loaded-loras": Unless((), _LORA),
    "max-loras": Unless((), _LORA),
    "guided-decoding-backend": Unless((), _GRAMMAR),
    "structured-outputs-config": Unless((), _GRAMMAR),
    "hicache-size": Unless(("0",), _TIERS),
    "hicache-write-policy": Unless((), _TIERS),
    "hicache-storage-backend": Unless((), _TIERS),
    "kv-transfer-config": Unless((), _PD),
    "disaggregation-ib-device": Unless((), _PD),
    "base-gpu-id": Unless(("0",), "--device cuda:N takes another GPU"),
    "gpu-id-step": Unless(_ONE, "CUDA_VISIBLE_DEVICES says which GPUs, and in what order"),
    "decode-attention-backend": Unless(("torch_native",), _ATTENTION),
    "prefill-attention-backend": Unless(("torch_native",), _ATTENTION),
    "moe-a2a-backend": Unless(("none",), "experts are split by --tp"),
    "moe-runner-backend": Unless(("auto",), "leave it out"),
    "load-balance-method": Unless(("auto",), _ENGINES),
    "distributed-executor-backend": Unless(("mp", "uni"), "leave it out; ranks are processes here"),
    "model-impl": Unless(("auto",), "leave it out; `espalier explain` says what serves the model"),
    "task": Unless(("auto", "generate"), "this engine generates text only"),
    "runner": Unless(("auto", "generate"), "this engine generates text only"),
    "hf-overrides": Unless(("{}",), "change the checkpoint's config.json"),
    "rope-scaling": Unless((), "change the checkpoint's config.json"),
    "rope-theta": Unless((), "change the checkpoint's config.json"),
    "hf-token": Unless((), "set HF_TOKEN: a secret on a command line is seen by everybody"),
    "tokenizer-revision": Unless((), "give --tokenizer a folder that holds it"),
    "generation-config": Unless((), "say it with a request's sampling parameters"),
    "override-generation-config": Unless((), "say it with a request's sampling parameters"),
    "num-gpu-blocks-override": Unless((), "--max-total-tokens says how much the cache holds"),
    "logits-processors": Unless((), "code is never loaded by name; leave it out"),
    "max-parallel-loading-workers": Unless((), "leave it out"),
    "mm-attention-backend": Unless((), _TEXT),
    "limit-mm-per-prompt": Unless((), _TEXT),
    "tokenizer-worker-num": Unless(_ONE, "leave it out"),
    "detokenizer-worker-num": Unless(_ONE, "leave it out"),
    "ssl-keyfile": Unless((), "let a proxy such as nginx speak TLS"),
    "ssl-certfile": Unless((), "let a proxy such as nginx speak TLS"),
    "root-path": Unless((), "let a proxy take the prefix off"),
    "fastapi-root-path": Unless((), "let a proxy take the prefix off"),
}
# Refused, and they take no value.
REFUSED_SWITCHES: Mapping[str, str] = {
    "enable-hicache": _TIERS,
    "enable-lmcache": _TIERS,
    "enable-expert-parallel": "experts are split by --tp",
    "enable-two-batch-overlap": "leave it out",
    "enable-auto-tool-choice": "tool calls are not built yet; leave it out",
    "enable-memory-saver": "stop the engine to give back its memory",
    "enable-sleep-mode": "stop the engine to give back its memory",
    "enable-custom-logit-processor": "code is never taken from a request",
    "schedule-low-priority-values-first": "higher goes first; send the negative of it",
    "disable-priority-preemption": "a request of higher priority may put back one of lower",
    "enable-return-hidden-states": "hidden states are not returned yet",
    "enable-return-aux-hidden-states": "hidden states are not returned yet",
    "allow-auto-truncate": "a request that is too long is refused; shorten it before it is sent",
    "mini-lb": _ROUTER,
    "pd-disaggregation": _PD,
    "speculative-adaptive": _SPEC,
    "enable-dp-attention": _ATTENTION_SPLIT,
    "enable-lora": _LORA,
    "enable-hierarchical-cache": _TIERS,
    "enable-multimodal": _TEXT,
    "is-embedding": "embeddings are not built yet",
    "enable-eplb": "experts are not moved between devices yet",
}
