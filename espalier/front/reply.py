"""An entry as the dict that users of SGLang's Engine and `/generate` know: text, ids, meta_info."""

from __future__ import annotations

from typing import Any

from espalier.errors import EngineError, RequestError
from espalier.front.scores import Pairs, Scored
from espalier.front.table import Entry
from espalier.protocol.messages import Finished
from espalier.tokenizer.base import Tokenizer

WEIGHT_VERSION = "default"


def reply(entry: Entry, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What has come so far, or, when it is over, the whole answer."""
    said: dict[str, Any] = {}
    if tokenizer is not None:
        said["text"] = entry.text
    said["output_ids"] = list(entry.tokens)
    if entry.prepared.wishes.return_prompt_token_ids:
        said["prompt_token_ids"] = entry.prepared.prompt.tolist()
    said["meta_info"] = meta_info(entry, tokenizer)
    return said


def meta_info(entry: Entry, tokenizer: Tokenizer | None) -> dict[str, Any]:
    end, wishes = entry.end, entry.prepared.wishes
    info: dict[str, Any] = {
        "id": entry.name,
        "finish_reason": finish_reason(entry),
        "prompt_tokens": len(entry.prepared.prompt),
        "completion_tokens": len(entry.tokens),
        "cached_tokens": entry.cached,
        "cached_tokens_details": {"device": entry.cached, "host": 0, "storage": 0},
        "weight_version": WEIGHT_VERSION,
        "num_retractions": 0 if end is None else end.num_preemptions,
        "seed": entry.prepared.sampling.seed,
    }
    if entry.first_at is not None:
        info["first_token_latency"] = entry.first_at - entry.sent_at
    if entry.ended_at is not None:
        info["e2e_latency"] = entry.ended_at - entry.sent_at
    if end is not None and end.draft_steps:
        info |= _drafts(end)
    if entry.prepared.logprobs is not None:
        _add_logprobs(info, entry, tokenizer if wishes.return_text_in_logprobs else None)
    return info


def finish_reason(entry: Entry) -> dict[str, Any] | None:
    match entry.reason:
        case None:
            return None
        case "stop":
            return {"type": "stop", "matched": entry.matched}
        case "length":
            return {"type": "length", "length": len(entry.tokens)}
        case _:
            failure = entry.failure
            return {
                "type": "abort",
                "message": failure.message if failure else "aborted",
                "status_code": failure.status if failure else 499,
                "err_type": failure.kind if failure else "Aborted",
            }


def check(entry: Entry) -> None:
    """Raise what ended a request, if that was an error; an abort is no error."""
    failure = entry.failure
    if entry.reason != "error" or failure is None:
        return
    kind = RequestError if failure.status < 500 else EngineError
    raise kind(f"{failure.message} ({failure.kind})", hint=failure.hint)


def _drafts(end: Finished) -> dict[str, Any]:
    said: dict[str, Any] = {
        "spec_verify_ct": end.draft_steps,
        "spec_num_proposed_drafts": end.drafts_proposed,
        "spec_num_correct_drafts": end.drafts_accepted,
        "spec_accept_length": 1 + end.drafts_accepted / end.draft_steps,
    }
    if end.drafts_proposed:
        said["spec_accept_rate"] = end.drafts_accepted / end.drafts_proposed
    return said


def _add_logprobs(info: dict[str, Any], entry: Entry, tokenizer: Tokenizer | None) -> None:
    """`input_*` for the prompt from where it was asked for, `output_*` for what was generated."""
    wanted = entry.prepared.logprobs
    assert wanted is not None, "asked by the caller"
    prompt = len(entry.prepared.prompt)
    parts = {"output": range(prompt, prompt + len(entry.tokens))}
    if wanted.prompt_from >= 0:
        parts["input"] = range(wanted.prompt_from, prompt)
    for name, positions in parts.items():
        rows = [entry.scores.get(position) for position in positions]
        tokens = entry.prepared.prompt if name == "input" else entry.tokens
        first = positions.start if name == "input" else positions.start - prompt
        info[f"{name}_token_logprobs"] = [
            _shown(row.value if row else None, int(tokens[first + place]), tokenizer)
            for place, row in enumerate(rows)
        ]
        if wanted.top:
            info[f"{name}_top_logprobs"] = [_each(row, "top", tokenizer) for row in rows]
        if wanted.listed:
            info[f"{name}_token_ids_logprobs"] = [_each(row, "listed", tokenizer) for row in rows]
    info["output_token_logprobs_length"] = len(info["output_token_logprobs"])


def _each(row: Scored | None, which: str, tokenizer: Tokenizer | None) -> list[Any] | None:
    """The first token of a prompt has nothing before it, so it has no log probability."""
    if row is None:
        return None
    pairs: Pairs = row.top if which == "top" else row.listed
    return [_shown(value, token, tokenizer) for value, token in pairs]


def _shown(value: float | None, token: int, tokenizer: Tokenizer | None) -> tuple[Any, ...]:
    return value, token, tokenizer.token_text(token) if tokenizer is not None else None
