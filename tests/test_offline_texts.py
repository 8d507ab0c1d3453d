"""What `Engine` writes, against transformers and against itself: scores, stops, samples, turns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import espalier

SMALL = {"max_total_tokens": 4096, "device": "cpu"}
GREEDY = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
PROMPT = "The quick brown fox jumps over"


@pytest.fixture(scope="module")
def engine(tiny_model: str) -> Iterator[espalier.Engine]:
    with espalier.Engine(model_path=tiny_model, **SMALL) as made:
        yield made


@pytest.fixture(scope="module")
def oracle(tiny_model: str) -> Any:
    """Log probabilities by position of a list of tokens, as transformers computes them."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()

    @torch.inference_mode()
    def scores(tokens: list[int]) -> torch.Tensor:
        return model(torch.tensor([tokens])).logits[0].log_softmax(-1)

    return scores


def test_greedy_tokens_are_transformers_tokens(engine: espalier.Engine, oracle: Any) -> None:
    reply = engine.generate(PROMPT, GREEDY, return_prompt_token_ids=True)
    tokens = [*reply["prompt_token_ids"], *reply["output_ids"]]
    likeliest = oracle(tokens).argmax(-1).tolist()
    start = len(reply["prompt_token_ids"]) - 1
    assert reply["output_ids"] == likeliest[start:-1]


@pytest.mark.parametrize("start", [0, 3])
def test_log_probabilities_are_transformers(
    engine: espalier.Engine, oracle: Any, start: int
) -> None:
    asked = [7, 300, 9]
    reply = engine.generate(
        PROMPT,
        {"max_new_tokens": 8, "seed": 3, "ignore_eos": True},
        return_logprob=True,
        logprob_start_len=start,
        top_logprobs_num=3,
        token_ids_logprob=asked,
        return_prompt_token_ids=True,
    )
    info = reply["meta_info"]
    prompt = reply["prompt_token_ids"]
    tokens = [*prompt, *reply["output_ids"]]
    scores = oracle(tokens)
    rows = {
        kind: info[f"input_{kind}"] + info[f"output_{kind}"]
        for kind in ("token_logprobs", "top_logprobs", "token_ids_logprobs")
    }
    assert {len(row) for row in rows.values()} == {len(tokens) - start}
    if not start:
        assert rows["token_logprobs"][0][:2] == (None, tokens[0])
        assert rows["top_logprobs"][0] is rows["token_ids_logprobs"][0] is None
    for place in range(max(start, 1), len(tokens)):
        row, at = scores[place - 1], place - start
        value, token, _ = rows["token_logprobs"][at]
        assert token == tokens[place]
        assert value == pytest.approx(row[token].item(), abs=1e-4)
        best = row.topk(3)
        assert [one[1] for one in rows["top_logprobs"][at]] == best.indices.tolist()
        assert [one[0] for one in rows["top_logprobs"][at]] == pytest.approx(
            best.values.tolist(), abs=1e-4
        )
        assert [one[1] for one in rows["token_ids_logprobs"][at]] == asked
        assert [one[0] for one in rows["token_ids_logprobs"][at]] == pytest.approx(
            row[asked].tolist(), abs=1e-4
        )


def test_the_prompt_alone_can_be_scored(engine: espalier.Engine) -> None:
    words: dict[str, Any] = {"return_logprob": True, "logprob_start_len": 0}
    info = engine.generate(PROMPT, {"max_new_tokens": 0}, **words)["meta_info"]
    whole = engine.generate(PROMPT, GREEDY, **words)["meta_info"]
    assert info["output_token_logprobs"] == []
    assert info["completion_tokens"] == 0
    assert info["input_token_logprobs"] == whole["input_token_logprobs"]


def test_text_is_cut_exactly_at_a_stop_that_lies_across_tokens(engine: espalier.Engine) -> None:
    tokenizer = engine.get_tokenizer()
    assert tokenizer is not None
    letters = [token for token in range(400) if tokenizer.decode([token]).strip().isascii()]
    params = {**GREEDY, "max_new_tokens": 40, "allowed_token_ids": letters}
    whole = engine.generate(PROMPT, params)
    text, tokens = whole["text"], whole["output_ids"]
    ends = {len(tokenizer.decode(tokens[:count])) for count in range(1, 40)}
    across = {text[end - 1 : end + 1] for end in ends}
    assert len(across) > 3
    for stop in sorted(across):
        reply = engine.generate(PROMPT, {**params, "stop": ["§§", stop]})
        count = len(reply["output_ids"])
        assert reply["text"] == text[: text.index(stop)]
        assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
        assert reply["meta_info"]["completion_tokens"] == count
        assert reply["output_ids"] == tokens[:count]
        assert stop in tokenizer.decode(tokens[:count])
        assert stop not in tokenizer.decode(tokens[: count - 1])
        kept = engine.generate(PROMPT, {**params, "stop": stop, "no_stop_trim": True})
        assert kept["text"] == reply["text"] + stop


def test_a_stop_token_ends_it_and_not_before_the_least_length(engine: espalier.Engine) -> None:
    tokens = engine.generate(PROMPT, GREEDY)["output_ids"]
    stop = {**GREEDY, "stop_token_ids": [tokens[2]]}
    reply = engine.generate(PROMPT, stop)
    assert reply["output_ids"] == tokens[: tokens.index(tokens[2]) + 1]
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": tokens[2]}
    longer = engine.generate(PROMPT, {**stop, "min_new_tokens": 6})
    assert tokens[2] not in longer["output_ids"][:6]


def test_the_models_own_end_can_be_ignored(engine: espalier.Engine) -> None:
    tokenizer = engine.get_tokenizer()
    assert tokenizer is not None
    end = tokenizer.special.eos
    forced = {"max_new_tokens": 4, "allowed_token_ids": [end]}
    stopped = engine.generate(PROMPT, forced)
    assert stopped["output_ids"] == [end]
    assert stopped["text"] == ""
    assert stopped["meta_info"]["finish_reason"] == {"type": "stop", "matched": end}
    assert engine.generate(PROMPT, {**forced, "ignore_eos": True})["output_ids"] == [end] * 4


def test_without_a_limit_it_goes_to_the_end_of_the_context(engine: espalier.Engine) -> None:
    prompt = list(range(5, 485))
    info = engine.generate(
        input_ids=prompt, sampling_params={"max_new_tokens": None, "ignore_eos": True}
    )["meta_info"]
    assert info["completion_tokens"] == 512 - len(prompt)
    assert info["finish_reason"] == {"type": "length", "length": 32}


def test_samples_of_a_prompt_differ_and_come_again_with_the_seed(engine: espalier.Engine) -> None:
    params = {"n": 4, "max_new_tokens": 6, "seed": 11, "ignore_eos": True}
    once = [one["output_ids"] for one in engine.generate(["one", "two"], params)]
    again = [one["output_ids"] for one in engine.generate(["one", "two"], params)]
    assert once == again
    assert len(once) == 8
    assert len(set(map(tuple, once[:4]))) == 4
    alone = engine.generate("two", {**params, "n": 1})
    assert alone["output_ids"] == once[4], "n in a row for each prompt"


def test_a_stream_is_cumulative_and_says_whose_it_is(engine: espalier.Engine) -> None:
    prompts = ["The quick", "안녕", "def add"]
    whole = engine.generate(prompts, {**GREEDY, "seed": 1})
    texts = ["", "", ""]
    for news in engine.generate(prompts, {**GREEDY, "seed": 1}, stream=True):
        index = news["index"]
        assert news["text"].startswith(texts[index].rstrip("\ufffd"))
        texts[index] = news["text"]
    assert texts == [one["text"] for one in whole]


def test_a_conversation_finds_its_earlier_turns_in_the_cache(engine: espalier.Engine) -> None:
    talk = [{"role": "user", "content": "Tell me of the dog that does not mind at all."}]
    first = engine.chat(talk, GREEDY)
    talk += [
        {"role": "assistant", "content": first["text"]},
        {"role": "user", "content": "And of the fox?"},
    ]
    info = engine.chat(talk, GREEDY)["meta_info"]
    assert info["cached_tokens"] >= first["meta_info"]["prompt_tokens"] - 1
    other = engine.chat(talk, GREEDY, cache_salt="somebody else")["meta_info"]
    assert other["cached_tokens"] == 0


def test_a_program_of_the_users_guides_runs_as_it_stands(
    tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written for another engine; the import and the model are all that changes."""
    program = Path(__file__).with_name("golden") / "offline_program.txt"
    code = program.read_text(encoding="utf-8")
    code = code.replace("import sglang as sgl", "import espalier as sgl")
    code = re.sub(r'model_path="[^"]*"', f"model_path={tiny_model!r}", code)
    code = re.sub(r"max_new_tokens=\d+", "max_new_tokens=8", code)
    exec(compile(code, program.name, "exec"), {})
    assert capsys.readouterr().out.count("Q: ") == 4
