"""`espalier generate`, from the command line to the text."""

from __future__ import annotations

import json

import pytest

from espalier.cli import generate
from espalier.cli.main import main
from tests.cli.test_main import CONFIG
from tests.tokenizers import byte_level_bpe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    vocabulary = byte_level_bpe(folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": vocabulary}))
    return str(folder)


def test_prompts_are_continued_and_the_same_line_gives_the_same_text(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["generate", "--model-path", model, "--load-format", "dummy", "--device", "cpu"]
    line += ["--memory", "2GB", "--prompt", "The quick", "--prompt", "Paris", "--json"]
    line += ["--max-new-tokens", "5", "--temperature", "0", "--ignore-eos", "--log-level", "error"]
    assert main(line) == 0
    first = [json.loads(reply) for reply in capsys.readouterr().out.splitlines()]
    assert [len(reply["output_ids"]) for reply in first] == [5, 5]
    assert all(reply["meta_info"]["finish_reason"]["type"] == "length" for reply in first)
    assert main([*line, "--speculative-algorithm", "NGRAM"]) == 0
    second = [json.loads(reply) for reply in capsys.readouterr().out.splitlines()]
    assert [reply["text"] for reply in first] == [reply["text"] for reply in second]


def test_a_prompt_that_was_not_finished_is_told(caplog: pytest.LogCaptureFixture) -> None:
    end = {"type": "abort", "message": "the model gave a number that is not one"}
    reply = {"text": "so far", "meta_info": {"finish_reason": end}}
    assert generate._shown(reply, generate._Wanted()) == "so far"
    assert "a number that is not one" in caplog.text
