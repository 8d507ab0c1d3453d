"""The commands of the guides that users follow: each is read as written, and means what it says.

The lines stand here, so that nothing passes for want of a file. Where the guides themselves lie
beside the project, their lines are read too, and must be these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espalier.cli import serve
from espalier.config.cli import Parsed, parse
from espalier.errors import NotBuilt

GUIDE = Path(__file__).parents[3] / "shared" / "reference" / "guides" / "commands.md"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA33 = "meta-llama/Llama-3.3-70B-Instruct"
TINY = (
    "--model-path TinyLlama/TinyLlama-1.1B-Chat-v1.0 --host 0.0.0.0 --port 8000 "
    "--mem-fraction-static 0.15 --max-total-tokens 2048 --trust-remote-code --disable-cuda-graph "
    "--disable-custom-all-reduce --disable-flashinfer --disable-radix-cache "
    "--attention-backend torch_native --log-level info"
)
COMPOSE = (
    f"--model-path {LLAMA33} --tp 4 --mem-fraction-static 0.85 --max-running-requests 1024 "
    "--dtype bfloat16 --enable-torch-compile --host 0.0.0.0 --port 30000"
)
# A line, and what it settles.
SERVED: list[tuple[str, dict[str, Any]]] = [
    (f"--model-path {LLAMA} --port 30000", {"model.path": LLAMA, "server.port": 30000}),
    (
        TINY,
        {
            "server.host": "0.0.0.0",
            "server.port": 8000,
            "cache.memory_fraction": 0.15,
            "cache.max_tokens": 2048,
            "cache.sharing": False,
            "kernels.attention": "reference",
            "server.log_level": "info",
        },
    ),
    (
        COMPOSE,
        {
            "parallel.tensor": 4,
            "cache.memory_fraction": 0.85,
            "scheduler.max_running": 1024,
            "model.dtype": "bfloat16",
        },
    ),
    (
        "--mem-fraction-static 0.12 --radix-cache-num-tokens 256000 --max-running-requests 48",
        {
            "cache.memory_fraction": 0.12,
            "cache.max_cached_tokens": 256_000,
            "scheduler.max_running": 48,
        },
    ),
    (
        (
            "--mem-fraction-static 0.20 --radix-cache-num-tokens 512000 --max-running-requests 32 "
            "--enable-flashinfer"
        ),
        {"cache.max_cached_tokens": 512_000, "kernels.attention": "auto"},
    ),
    (
        (
            "--mem-fraction-static 0.40 --radix-cache-num-tokens 1024000 --max-running-requests 24 "
            "--enable-torch-compile"
        ),
        {"cache.max_cached_tokens": 1_024_000, "scheduler.max_running": 24},
    ),
    ("--schedule-policy fcfs", {"scheduler.policy": "fcfs"}),
    ("--schedule-policy lpm", {"scheduler.policy": "lpm"}),
    ("--schedule-policy random", {"scheduler.policy": "random"}),
    (
        "--gpu-memory-utilization 0.15 --max-model-len 2048 --max-num-seqs 32 --enforce-eager",
        {
            "cache.memory_fraction": 0.15,
            "model.context_length": 2048,
            "scheduler.max_running": 32,
        },
    ),
]
# A line, and the first of its flags that stands for something not built.
REFUSED: list[tuple[str, str]] = [
    (
        (
            f"--model-path {LLAMA33} --port 30000 --tp 4 --dp 2 --mem-fraction-static 0.85 "
            "--max-running-requests 2048 --dtype bfloat16 --context-length 32768 "
            "--enable-torch-compile --disable-radix-cache"
        ),
        "--dp 2",
    ),
    (
        (
            "--model-path deepseek-ai/DeepSeek-V3 --tp 8 --dp 4 --trust-remote-code "
            "--enable-dp-attention --dtype bfloat16 --port 30000"
        ),
        "--dp 4",
    ),
    (
        f"--model-path {LLAMA33} --dtype float16 --quantization fp8 --tp 2 --port 30000",
        "--quantization fp8",
    ),
    (f"--model-path {LLAMA33} --quantization awq --tp 1 --port 30000", "--quantization awq"),
    (
        "--model-path TheBloke/Llama-2-70B-GPTQ --quantization gptq --tp 2 --port 30000",
        "--quantization gptq",
    ),
    (
        (
            f"--model-path {LLAMA} --speculative-algorithm EAGLE "
            "--speculative-draft-model-path lmzheng/sglang-EAGLE-llama3.1-Instruct-8B "
            "--speculative-num-draft-tokens 5 --port 30000"
        ),
        "--speculative-algorithm EAGLE",
    ),
    (
        (
            "--model-path meta-llama/Llama-3.1-70B-Instruct --speculative-algorithm EAGLE3 --tp 4 "
            "--port 30000"
        ),
        "--speculative-algorithm EAGLE3",
    ),
    (
        (
            "--model-path meta-llama/Llama-3.1-405B-Instruct --tp 16 --dist-init-addr 10.0.0.1:20000 "
            "--nnodes 2 --node-rank 0 --port 30000"
        ),
        "--dist-init-addr 10.0.0.1:20000",
    ),
    (
        (
            f"--model-path {LLAMA} --router-hosts 10.0.0.1:30000 10.0.0.2:30000 10.0.0.3:30000 "
            "--router-port 8080 --cache-threshold 0.5 --policy cache_aware"
        ),
        "--router-hosts 10.0.0.1:30000 10.0.0.2:30000 10.0.0.3:30000",
    ),
    (
        (
            "--model-path meta-llama/Llama-3.1-70B-Instruct --tp 4 --disaggregation-mode prefill "
            "--disaggregation-transfer-backend mooncake --port 30000"
        ),
        "--disaggregation-mode prefill",
    ),
    (
        (
            "--model-path meta-llama/Llama-3.1-70B-Instruct --tp 4 --disaggregation-mode decode "
            "--disaggregation-transfer-backend mooncake --port 30001"
        ),
        "--disaggregation-mode decode",
    ),
]


@pytest.mark.parametrize(("line", "meaning"), SERVED)
def test_a_line_means_what_it_says(line: str, meaning: dict[str, Any]) -> None:
    settings = parse(line.split()).settings
    for path, value in meaning.items():
        group, _, name = path.partition(".")
        assert getattr(getattr(settings, group), name) == value, path


@pytest.mark.parametrize(("line", "flag"), REFUSED)
def test_a_line_that_needs_what_is_not_built_is_refused_by_name(line: str, flag: str) -> None:
    with pytest.raises(NotBuilt) as error:
        parse(line.split())
    assert error.value.message == f"{flag} is not supported"
    assert error.value.hint


def test_flags_for_other_devices_have_no_effect_but_a_notice() -> None:
    without_effect = ("disable-cuda-graph", "disable-custom-all-reduce", "disable-flashinfer")
    notices = parse(TINY.split()).notices
    assert len(notices) == len(without_effect) + 1
    for word in without_effect:
        assert any(notice.startswith(f"--{word} has no effect: ") for notice in notices)
    assert "code from a checkpoint is never run" in notices[-1]


def test_flashinfer_may_be_asked_for_or_against() -> None:
    for word in ("enable", "disable"):
        found: Parsed = parse([f"--{word}-flashinfer"])
        assert found.settings == parse([]).settings
        assert found.notices


def test_the_server_checks_all_flags_before_it_says_what_is_missing() -> None:
    with pytest.raises(NotBuilt, match="the HTTP server is not built yet"):
        serve.run(TINY.split())


@pytest.mark.skipif(not GUIDE.exists(), reason="the guides do not lie beside the project")
def test_the_lines_here_are_the_guides_own() -> None:
    ours = {tuple(line.split()) for line, _ in [*SERVED, *REFUSED]}
    theirs = {tuple(line.split()) for line in _flag_lines(GUIDE.read_text(encoding="utf-8"))}
    assert len(theirs) > 15
    assert theirs == ours


def _flag_lines(text: str) -> Iterator[str]:
    """The flags of every line that starts something of ours, or is made of flags alone."""
    text = re.sub(r"(command: >\n\s+)(.*?)\n\s+healthcheck:", _on_one_line, text, flags=re.DOTALL)
    for line in text.splitlines():
        started = re.match(r"\s*(python -m sglang[\w.]*|sglang)?\s*(--.*)", line)
        if started:
            yield started.group(2)


def _on_one_line(found: re.Match[str]) -> str:
    return " ".join(found.group(2).split())
