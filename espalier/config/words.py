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
    "enable-prefix-caching": Says("cache.sharing", True),
    "skip-tokenizer-init": Says("model.skip_tokenizer", True),
    "disable-overlap-schedule": Says("scheduler.look_ahead", 0),
    "enable-deterministic-inference": Says("kernels.deterministic", True),
    "deterministic": Says("kernels.deterministic", True),
    "enable-metrics": Says("server.metrics", True),
}

# Values that users of the peers write, under our names.
VALUES: Mapping[str, Mapping[str, Any]] = {
    "model.dtype": {"half": "float16", "float": "float32", "bf16": "bfloat16", "fp16": "float16"},
    "cache.dtype": {"bf16": "bfloat16"},
    "kernels.attention": {"torch_native": "reference"},
    "speculative.algorithm": {"NGRAM": "ngram"},
    "scheduler.chunk_tokens": {"-1": None},
}

_STEPS = "steps are mixed and prompts are taken in chunks always"
_GRAPHS = "whole-step graphs are not built yet; nothing is lost but speed on a GPU"
_FLASH = "the fastest attention that the device has is chosen; see `espalier explain`"
NOTICES: Mapping[str, str] = {
    "enable-flashinfer": _FLASH,
    "disable-flashinfer": _FLASH,
    "disable-cuda-graph": _GRAPHS,
    "enforce-eager": _GRAPHS,
    "disable-cuda-graph-padding": _GRAPHS,
    "enable-torch-compile": "the engine's own kernels are used in place of torch.compile",
    "disable-custom-all-reduce": "there is no custom all-reduce to be disabled",
    "enable-mixed-chunk": _STEPS,
    "enable-chunked-prefill": _STEPS,
    "enable-cache-report": "cached tokens are always reported",
    "disable-log-stats": "statistics are not logged",
    "disable-log-requests": "requests are not logged",
    "enable-p2p-check": "there is nothing to be checked",
    "skip-server-warmup": "there is no warm-up to be skipped",
    "disable-flashinfer-autotune": "nothing is tuned while serving",
}
# The same, but they take a value.
VALUED_NOTICES: Mapping[str, str] = {
    "cuda-graph-max-bs": _GRAPHS,
    "swap-space": "what is put back stays in the prefix cache, and is not swapped",
    "watchdog-timeout": "the watchdog comes with the server",
    "stream-interval": "say it with a request's sampling parameters",
    "schedule-conservativeness": "the plan counts pages; there is nothing to be estimated",
    "tokenizer-mode": "the tokenizer's own files say what it is",
    "decode-log-interval": "steps are not logged",
}

_ONE = ("1",)
_SPEC = "the drafts that are built need no model: --speculative-algorithm NGRAM"
_PD = "one engine does both; leave it out"
_QUANT = (
    "quantized weights are not built yet; serve the model in bfloat16 (leave the flag out), or a "
    "smaller model: `espalier plan` says what fits"
)
_LORA = "adapters are not built yet; merge the adapter into the checkpoint"
_NODES = "one machine is what is built; --tp spreads a model over its devices"
REFUSED: Mapping[str, Unless] = {
    "quantization": Unless(("none",), _QUANT),
    "dp-size": Unless(_ONE, "start several engines on ports of their own"),
    "dp": Unless(_ONE, "start several engines on ports of their own"),
    "data-parallel-size": Unless(_ONE, "start several engines on ports of their own"),
    "pp-size": Unless(_ONE, "use --tp to spread a model over several devices"),
    "pipeline-parallel-size": Unless(_ONE, "use --tp to spread a model over several devices"),
    "ep-size": Unless(_ONE, "experts are split by --tp"),
    "ep": Unless(_ONE, "experts are split by --tp"),
    "attn-dp-size": Unless(_ONE, "leave it out; attention is split by --tp"),
    "nnodes": Unless(_ONE, _NODES),
    "node-rank": Unless(("0",), _NODES),
    "dist-init-addr": Unless((), _NODES),
    "speculative-draft-model-path": Unless((), _SPEC),
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
    "grammar-backend": Unless(("none",), "structured output is not built yet"),
    "tool-call-parser": Unless((), "tool calls are not built yet"),
    "reasoning-parser": Unless((), "reasoning parsers are not built yet"),
    "hicache-ratio": Unless((), "tiers of the cache are not built yet; give the cache more memory"),
    "json-model-override-args": Unless(("{}",), "change the checkpoint's config.json"),
    "router-hosts": Unless((), "the router is not built yet; use a proxy that you have"),
    "router-port": Unless((), "the router is not built yet; use a proxy that you have"),
    "cache-threshold": Unless((), "the router is not built yet; use a proxy that you have"),
    "policy": Unless((), "the router is not built yet; a queue's order is --schedule-policy"),
}
# Refused, and they take no value.
REFUSED_SWITCHES: Mapping[str, str] = {
    "enable-dp-attention": "leave it out; attention is split by --tp",
    "enable-lora": _LORA,
    "enable-hierarchical-cache": "tiers of the cache are not built yet",
    "enable-multimodal": "this engine takes text only",
    "is-embedding": "embeddings are not built yet",
    "enable-eplb": "experts are not moved between devices yet",
}
