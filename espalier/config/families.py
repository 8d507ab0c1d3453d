"""Flags that come by the dozen: a line of patterns for each capability that is not built.

SGLang alone has more than five hundred flags. The well-known ones have a place of their own in
`words.py`, which is asked first; the rest are known by their shape, so that each is refused for
what it is, and not called unknown. Data only.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

# The way out, and for which flags.
FAMILIES: tuple[tuple[str, str], ...] = (
    (
        "tiers of the cache are not built yet; give the cache more memory",
        "*hicache* *hisparse* *flexkv* *lmcache* *unified* hierarchical-* enable-linker-*",
    ),
    (
        "one engine computes both prompts and output; leave it out",
        (
            "disaggregation-* *pdmux* sm-group-num encoder-* *-to-encoder language-*only *pd-role* "
            "decoupled-* num-reserved-decode-tokens optimistic-prefill-*"
        ),
    ),
    ("adapters are not built yet; merge the adapter into the checkpoint", "*lora*"),
    (
        "the drafts that are built need no model: --speculative-algorithm NGRAM",
        "speculative-* spec-* *-eagle",
    ),
    ("this engine takes text only", "mm-* *-mm-* *media* image-* asr-* limit-mm* enable-mis"),
    (
        "what it is for is a kind of model that is not built yet",
        "*mamba* *linear-attn* *replayssm* dllm-* c128-* *swa-* qsa-* enable-deepseek-* *-sconv",
    ),
    ("quantized weights are not built yet", "*modelopt* *quantize* rl-* *quant-*"),
    (
        "experts are split by --tp",
        (
            "*deepep* *eplb* *elastic-ep* *expert* ep-* moe-* max-ep-size *megamoe* fuseep-* kt-* "
            "*-waterfill *mooncake*"
        ),
    ),
    (
        "weights stay on one device; `espalier plan` says what fits",
        "*offload* *cpu-backup",
    ),
    (
        "--tp is how a model is spread over devices",
        (
            "dcp-* dwdp-* attn-*-size attention-*-parallel-size *-context-parallel-size cp-* *-cp "
            "pp-* "
            "*-attn-tp* *dp-lm-head *-tp-lm-head-* *-dp-attention-* use-ray *-layernorm-sp *nccl* "
            "dist-* gated-launch-* "
            "numa-node *-kv-cache-sharding data-parallel-* headless master-*"
        ),
    ),
    (
        "the best kernels that are built are chosen; `espalier explain` says which",
        (
            "*dsa-* dsv4-* *flashinfer* fp[48]-* bf16-* *kernel *kernel-backend triton-attention-* "
            "*aiter* *-fused-* *symm-mem *mscclpp *tf32* *-lean-attention boundary-reduction"
        ),
    ),
    (
        "whole-step graphs are not built yet; leave it out",
        "*cuda-graph* *cudagraph* context-bucket *torch-compile*",
    ),
    (
        "weights are read from a folder or the hub, as safetensors; leave it out",
        (
            "*weight-loader* weight-* *weight-load-* *wait-weights-* *modelexpress* decrypted-* "
            "model-loader-* model-checksum model-config-parser delete-ckpt-* engine-info-*"
        ),
    ),
    ("let a proxy such as nginx speak TLS and HTTP/2", "ssl-* *-ssl-* *http2* *-reuseport"),
    (
        "that part of the server is not built yet; leave it out",
        (
            "*grpc* smg-* sidecar* tool-server *response-store file-storage-path *chat-template* "
            "completion-template *streaming-* stream-response-* warmups *-worker-num "
            "strip-thinking-* "
            "preferred-* sampling-defaults sampling-mask-* enable-session-* uvicorn-* "
            "allow-credentials allowed-* middleware api-server-count response-role "
            "*-request-id-headers"
        ),
    ),
    (
        "`Engine.statistics` counts requests and steps; leave it out",
        (
            "*trace* otlp-* *metric* bucket-* *-buckets stat-loggers kv-canary* kv-events-* "
            "debug-* "
            "export-* *watchdog* log-requests-* load-* crash-dump-* msprobe-* *-nvtx-marker "
            "*-time-stats-* show-time-cost forward-hooks gc-*"
        ),
    ),
    (
        "steps are planned by a token budget; leave it out, see --max-prefill-tokens",
        (
            "*prefill-delayer* prefill-* retraction-* min-free-* *-batch-overlap tbo-* "
            "scheduler-recv-* "
            "sleep-on-idle *priority-* default-priority-* batch-notify-*"
        ),
    ),
    ("structured output is not built yet", "constrained-json-* *strict-thinking"),
    ("embeddings are not built yet", "pooler-* convert *prompt-embeds"),
    ("code is never loaded by name; leave it out", "*-cls *-plugin custom-*"),
    (
        "it tunes a part that this engine does not have; leave it out",
        (
            "*watermark* *return-* *batch-tokenizer* *tokenizer-batch-* tokenizer-* radix-* "
            "*-embedding-* *-kv-layout *-fp32-* mlx-* ngram-prompt-* additional-config"
        ),
    ),
)


def way_out(name: str) -> str | None:
    """What to do instead of a flag that belongs to one of the families; None for any other."""
    for hint, patterns in FAMILIES:
        if any(fnmatchcase(name, pattern) for pattern in patterns.split()):
            return hint
    return None
