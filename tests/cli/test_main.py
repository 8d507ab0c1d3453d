"""The command line: what it prints, what it refuses, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from espalier.cli import generate
from espalier.cli.main import COMMANDS, main
from espalier.config.fields import FIELDS

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "torch_dtype": "float32",
    "hidden_act": "silu",
    "eos_token_id": 1,
}


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path)


def test_help_names_every_command_and_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["help"], ["--help"], ["serve", "--help"]):
        assert main(argv) == 0
        text = capsys.readouterr().out
        assert all(f"\n  {name} " in text for name in COMMANDS)
        assert all(f"--{path.replace('_', '-')} " in text for path in FIELDS)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == main(["--version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first.startswith("espalier 0.")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("srve x", "did you mean 'serve'"),
        ("serve", "no model is named"),
        ("serve x y", "one model at a time"),
        ("serve x --max-runing-requests 3", "did you mean --max-running-requests"),
        ("serve x --schedule-policy fastest", "no scheduling policy is called 'fastest'"),
        ("serve x --eviction 3", "--eviction is not known"),
        ("serve x --radix-eviction-policy lrx", "no eviction order is called 'lrx'"),
        ("serve x -p 8000", "-p is not known"),
        ("serve x", "the HTTP server is not built yet"),
        ("--model-path x --port 8000", "0.1:8000"),
        ("plan", "no model is named"),
        ("plan not-a-model", "neither a folder that exists nor a name on the hub"),
        ("generate --model-path x", "no prompt is given"),
        ("generate --prompt", "--prompt needs a value"),
        ("generate x --prompt a --temperature hot", "--temperature = 'hot'"),
    ],
)
def test_what_can_be_put_right_is_one_message_and_exit_code_2(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    found = capsys.readouterr()
    assert told in found.err
    assert "hint: " in found.err
    assert "Traceback" not in found.err
    assert not found.out


def test_a_wrong_sampling_parameter_is_told_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["generate", "nowhere", "--prompt", "a", "--temperature", "9"]) == 2
    assert "temperature = 9" in capsys.readouterr().err


def test_a_plan_is_printed_for_models_that_are_not_loaded(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", model, model, "--memory", "4GB", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "4.00 GiB" in text
    assert text.count(model) == 2
    assert "It fits." in text


def test_a_plan_for_a_device_that_is_not_here(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--model-path", model, "--device", "h200"]) == 0
    assert "H200" in capsys.readouterr().out


def test_every_setting_is_explained(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", model, "--device", "cpu", "--max-running-requests", "3"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert all(path in lines for path in FIELDS)
    assert lines["scheduler.max_running"].split()[1] == "3"
    assert "it was said" in lines["scheduler.max_running"]


def test_words_of_a_request_are_parted_from_settings() -> None:
    wanted, rest = generate._split(
        [
            *[
                "--model-path",
                "m",
                "--prompt",
                "--a",
                "--max-tokens",
                "5",
                "--prompt=b",
                "--tp",
                "2",
            ],
            *[
                "--stop",
                "END",
                "--ignore-eos",
                "--logit-bias",
                '{"5": 1.0}',
                "--json",
                "--seed",
                "3",
            ],
        ]
    )
    assert wanted.prompts == ["--a", "b"]
    assert wanted.sampling == {
        "max_new_tokens": 5,
        "stop": "END",
        "ignore_eos": True,
        "logit_bias": {"5": 1.0},
    }
    assert wanted.json
    assert rest == ["--model-path", "m", "--tp", "2", "--seed", "3"]


def test_help_tells_the_words_of_a_request_with_their_defaults_and_other_names() -> None:
    text = "\n".join(generate.option_lines())
    assert "default 128; also --max-tokens, --max-completion-tokens" in text
    assert text.count("--temperature ") == 1
    assert "--logit-bias" in text


def test_a_reader_that_stops_reading_is_no_error() -> None:
    argv = [sys.executable, "-m", "espalier", "help"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


@pytest.mark.parametrize("module", ["espalier", "espalier.launch_server"])
def test_modules_are_the_command_itself(module: str) -> None:
    argv = [sys.executable, "-m", module, "--model-path", "x", "--port", "8000"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "127.0.0.1:8000" in done.stderr
    assert "Traceback" not in done.stderr
