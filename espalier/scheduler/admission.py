"""The door: what is refused, and why, before anything is kept for it.

The front end has checked all of this too; here it is checked again because this is where a wrong
number would do harm, and because the queue's state is known only here.
"""

from __future__ import annotations

from espalier.errors import ContextTooLong, OutOfRange, QueueFull
from espalier.protocol.messages import Generate
from espalier.scheduler.plan import Limits
from espalier.scheduler.queue import Queue


def check(message: Generate, limits: Limits, queue: Queue) -> None:
    """Raise what is wrong with a request, or with taking it now."""
    if len(queue) >= limits.max_queued:
        raise QueueFull(waiting=len(queue), limit=limits.max_queued)
    prompt, output = len(message.prompt), message.max_tokens
    waiting = queue.num_tokens
    if waiting and waiting + prompt > limits.max_queued_tokens:
        raise QueueFull(waiting=waiting, limit=limits.max_queued_tokens, what="prompt tokens")
    if not prompt:
        raise OutOfRange("prompt", [], "must hold at least one token")
    if output < 1:
        raise OutOfRange("max_new_tokens", output, "must be at least 1")
    if prompt + output > limits.context_length:
        raise ContextTooLong(prompt=prompt, completion=output, limit=limits.context_length)
    _check_capacity(prompt + output, limits)
    _check_tokens(message, limits.vocabulary)


def _check_capacity(tokens: int, limits: Limits) -> None:
    if tokens > limits.capacity:
        raise OutOfRange(
            "prompt and max_new_tokens",
            tokens,
            f"the cache holds {limits.capacity} tokens",
            hint="ask for fewer tokens, or start with more memory for the cache",
        )


def _check_tokens(message: Generate, vocabulary: int) -> None:
    for name, ids in (("input_ids", message.prompt), ("sent", message.sent)):
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
            wrong = next(int(one) for one in ids if not 0 <= one < vocabulary)
            raise OutOfRange(name, wrong, f"token ids are from 0 to {vocabulary - 1}")
    if len(message.sent) >= message.max_tokens:
        raise OutOfRange("sent", len(message.sent), f"max_new_tokens is {message.max_tokens}")
    sampling, wanted = message.sampling, message.logprobs
    lists = {
        "stop_token_ids": sampling.stop,
        "logit_bias": tuple(token for token, _ in sampling.bias),
        "allowed_token_ids": sampling.allowed,
        "bad_words": tuple(token for word in sampling.bad_words for token in word),
        "token_ids_logprob": wanted.listed if wanted else (),
    }
    for name, tokens in lists.items():
        for token in tokens:
            if not 0 <= token < vocabulary:
                raise OutOfRange(name, token, f"token ids are from 0 to {vocabulary - 1}")
    if wanted is not None and not 0 <= wanted.top <= vocabulary:
        raise OutOfRange("top_logprobs_num", wanted.top, f"is from 0 to {vocabulary}")
