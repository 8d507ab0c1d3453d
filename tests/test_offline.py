"""`espalier.Engine`, whole: a small model of random weights, on a CPU, in this process."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import espalier
from espalier.errors import ConfigError, EngineError, NotBuilt, RequestError
from tests.bad_inputs import CANARY, bad_inputs
from tests.tokenizers import byte_level_bpe

ROOT = Path(__file__).parents[1]
CONTEXT = 2048
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
    "tie_word_embeddings": True,
}
SMALL = {"load_format": "dummy", "max_total_tokens": 4096, "device": "cpu"}
FEW = {"max_new_tokens": 6, "temperature": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    vocabulary = byte_level_bpe(folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": vocabulary}))
    return str(folder)


@pytest.fixture(scope="module")
def engine(model: str) -> Iterator[espalier.Engine]:
    with espalier.Engine(model_path=model, **SMALL) as made:
        yield made


BAD = bad_inputs(485, CONTEXT)


@pytest.fixture(scope="module")
def canary(engine: espalier.Engine) -> list[int]:
    """What a request says that nobody disturbs."""
    tokens: list[int] = engine.generate(**CANARY)["output_ids"]
    return tokens


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_ends_nothing_but_itself(
    engine: espalier.Engine, canary: list[int], name: str
) -> None:
    with pytest.raises(RequestError) as refused:
        engine.generate(**BAD[name].words)
    assert BAD[name].names in refused.value.message
    assert engine.generate(**CANARY)["output_ids"] == canary
    assert engine.statistics()["running"] == engine.statistics()["table"] == 0


def test_a_batch_is_what_its_prompts_are_alone(engine: espalier.Engine) -> None:
    prompts = ["The quick brown fox", "안녕하세요", "def add(left, right):", "The quick red"]
    alone = [engine.generate(prompt, FEW)["output_ids"] for prompt in prompts]
    assert [reply["output_ids"] for reply in engine.generate(prompts, FEW)] == alone


def test_a_stream_ends_as_the_whole_does(engine: espalier.Engine) -> None:
    *_, last = engine.generate("The quick", FEW, stream=True)
    assert last["text"] == engine.generate("The quick", FEW)["text"]


def test_a_prefix_is_computed_once(engine: espalier.Engine) -> None:
    prompt = "A prompt that nobody has sent before, long enough for some pages of the cache."
    assert engine.generate(prompt, FEW)["meta_info"]["cached_tokens"] < 16
    info = engine.generate(prompt, FEW)["meta_info"]
    assert info["cached_tokens"] == info["prompt_tokens"] - 1
    salted = engine.generate(prompt, FEW, cache_salt="another tenant")
    assert salted["meta_info"]["cached_tokens"] == 0


def test_the_reply_says_the_seed_that_gives_it_again(engine: espalier.Engine) -> None:
    params = {"max_new_tokens": 12, "temperature": 1.5, "ignore_eos": True}
    first = engine.generate("Once", params)
    again = engine.generate("Once", {**params, "seed": first["meta_info"]["seed"]})
    assert first["output_ids"] == again["output_ids"]


def test_prompt_and_output_log_probabilities_are_complete(engine: espalier.Engine) -> None:
    words: dict[str, Any] = {"return_logprob": True, "top_logprobs_num": 2}
    reply = engine.generate("The quick brown fox", FEW, logprob_start_len=0, **words)
    info = reply["meta_info"]
    assert len(info["input_token_logprobs"]) == info["prompt_tokens"]
    assert len(info["output_top_logprobs"]) == info["completion_tokens"]
    for (value, token, _), best in zip(
        info["output_token_logprobs"], info["output_top_logprobs"], strict=True
    ):
        assert (value, token) == best[0][:2], "greedy takes the likeliest"


def test_a_conversation_goes_through_the_models_template(engine: espalier.Engine) -> None:
    talk = [{"role": "user", "content": "hi"}]
    reply = engine.chat(talk, FEW, return_prompt_token_ids=True)
    tokenizer = engine.get_tokenizer()
    assert tokenizer is not None
    shown = tokenizer.decode(reply["prompt_token_ids"], skip_special=False)
    assert shown == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert [one["output_ids"] for one in engine.chat([talk, talk], FEW)] == [
        reply["output_ids"]
    ] * 2


@pytest.mark.parametrize("messages", [[], "hi", ["hi"], [[]], [[{"role": "user"}], "x"], [None], 3])
def test_what_is_no_conversation_is_refused(engine: espalier.Engine, messages: Any) -> None:
    with pytest.raises(RequestError, match="messages"):
        engine.chat(messages, FEW)


@pytest.mark.parametrize("word", ["prompt", "input_ids"])
def test_a_conversation_stands_alone(engine: espalier.Engine, word: str) -> None:
    with pytest.raises(RequestError, match=word):
        engine.chat([{"role": "user", "content": "x"}], FEW, **{word: [1]})


def test_tools_are_refused_by_name(engine: espalier.Engine) -> None:
    with pytest.raises(RequestError, match="tools"):
        engine.chat([{"role": "user", "content": "x"}], FEW, tools=[{"type": "function"}])


def test_methods_that_are_not_built_are_refused_by_name(engine: espalier.Engine) -> None:
    for name in ("encode", "score", "rerank", "load_lora_adapter", "update_weights_from_disk"):
        with pytest.raises(NotBuilt, match=name):
            getattr(engine, name)
    assert not hasattr(engine, "no_such_method")


def test_it_works_where_an_event_loop_runs_already(engine: espalier.Engine) -> None:
    async def cell() -> list[Any]:
        blocking = engine.generate("One", FEW)
        news = [one async for one in await engine.async_generate("One", FEW, stream=True)]
        return [blocking, await engine.async_generate("One", FEW), news[-1]]

    assert len({reply["text"] for reply in asyncio.run(cell())}) == 1


def test_a_long_prompt_is_encoded_beside_the_event_loop(engine: espalier.Engine) -> None:
    with pytest.raises(RequestError, match="exceed the context"):
        asyncio.run(engine.async_generate("word " * 4000, FEW))


def test_a_stream_holds_on_to_its_engine(model: str) -> None:
    *_, last = espalier.Engine(model_path=model, **SMALL).generate("x", FEW, stream=True)
    assert last["meta_info"]["finish_reason"]


def test_an_abort_by_name_ends_the_request_with_what_it_has(engine: espalier.Engine) -> None:
    stream = engine.generate(
        "Go on", {"max_new_tokens": 1500, "ignore_eos": True}, stream=True, rid="mine"
    )
    next(stream)
    assert engine.abort("min") == engine.abort("") == 0
    assert engine.abort("mine") == 1
    *_, last = stream
    assert last["meta_info"]["finish_reason"]["type"] == "abort"
    assert 1 <= len(last["output_ids"]) < 1500


def test_the_cache_can_be_emptied(engine: espalier.Engine) -> None:
    engine.generate("Something to be remembered for a while", FEW)
    engine.flush_cache()
    engine.generate("x", {"max_new_tokens": 1})
    reply = engine.generate("Something to be remembered for a while", FEW)
    assert reply["meta_info"]["cached_tokens"] == 0


def test_it_says_what_it_is_and_why(engine: espalier.Engine, model: str) -> None:
    info = engine.get_server_info()
    assert info["model_path"] == model
    assert info["decisions"]
    assert engine.get_metrics().keys() == engine.statistics().keys()


def test_token_ids_go_in_and_out_without_a_tokenizer(model: str, engine: espalier.Engine) -> None:
    with espalier.Engine(model_path=model, skip_tokenizer_init=True, **SMALL) as bare:
        reply = bare.generate(input_ids=[5, 6, 7], sampling_params=FEW)
        assert (
            reply["output_ids"]
            == engine.generate(input_ids=[5, 6, 7], sampling_params=FEW)["output_ids"]
        )
        assert "text" not in reply
        with pytest.raises(RequestError, match="tokenizer"):
            bare.generate("text", FEW)
        with pytest.raises(RequestError, match="chat template"):
            bare.chat([{"role": "user", "content": "x"}])


def test_after_a_shutdown_it_says_so(model: str) -> None:
    made = espalier.Engine(model_path=model, **SMALL)
    made.shutdown()
    made.shutdown()
    with pytest.raises(EngineError, match="shut down"):
        made.generate("x", FEW)


def test_an_engine_that_nobody_has_any_more_is_gone(model: str) -> None:
    before = threading.active_count()
    made = espalier.Engine(model_path=model, **SMALL)
    made.generate("x", FEW)
    del made
    gc.collect()
    assert threading.active_count() == before


def test_a_word_that_is_no_setting_is_told_the_right_one(model: str) -> None:
    with pytest.raises(ConfigError, match="max_running_requests"):
        espalier.Engine(model_path=model, max_runing_requests=3)
    with pytest.raises(ConfigError, match="no model"):
        espalier.Engine()


def test_a_script_needs_no_guard_and_ends_by_itself(model: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import espalier\n"
        f"engine = espalier.Engine(model_path={model!r}, **{SMALL!r})\n"
        "print(len(engine.generate('a', {'max_new_tokens': 3, 'ignore_eos': True})['output_ids']))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr


def test_a_batch_shows_how_far_it_is(engine: espalier.Engine, capsys: Any) -> None:
    engine.generate(["a", "b"], FEW, use_tqdm=True)
    assert "2/2 requests" in capsys.readouterr().err
    engine.generate(["a", "b"], FEW)
    assert not capsys.readouterr().err, "no terminal, no line"


def test_the_guide_does_what_it_says(model: str) -> None:
    page = (ROOT / "docs" / "start" / "python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    small = ", ".join(f"{name}={value!r}" for name, value in SMALL.items())
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        code = re.sub(r'Engine\(model_path="[^"]*"', f"Engine(model_path={model!r}, {small}", block)
        exec(compile(code, "python.md", "exec"), names)


@pytest.mark.parametrize("name", ["batch", "talk", "streams"])
def test_the_examples_run(name: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(espalier.Engine):
        def __init__(self, **words: Any) -> None:
            super().__init__(**words, **SMALL)

    monkeypatch.setattr(espalier, "Engine", Small)
    monkeypatch.setattr(sys, "argv", [name, model])
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n\n"))
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
