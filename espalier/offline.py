"""`Engine`: the whole engine in this process, for scripts and notebooks.

The step loop runs on a thread of its own; callers wait for their entries to fill. There is no child
process to start, so no `__main__` guard is needed, and an event loop that runs already is no
hindrance.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Self

from msgspec.structs import asdict

from espalier import logs
from espalier.config.cli import from_keywords
from espalier.config.engine import EngineSettings
from espalier.config.env import environment
from espalier.config.model import ModelSettings
from espalier.engine.build import Built, build, limits_of
from espalier.errors import ConfigError, NotBuilt, RequestError
from espalier.front.asking import Asked, ask, is_long
from espalier.front.caller import Caller
from espalier.front.checks import flag
from espalier.front.client import Client, Room
from espalier.front.intake import Intake, ModelLimits
from espalier.front.plan import stored
from espalier.front.resolve import Decision, resolve
from espalier.front.talks import chats
from espalier.loading.facts import ModelFacts, read_facts
from espalier.loading.hub import find, hub_places, local_folder
from espalier.platforms.detect import this_machine
from espalier.protocol.messages import Failure
from espalier.tokenizer.chat import ChatTemplate, NoChatTemplate
from espalier.tokenizer.hf import HfTokenizer, load

log = logging.getLogger(__name__)

Params = Any  # a SamplingParams, a dict, or a list of one for each prompt
_JOIN_S = 30.0  # how long a shutdown waits for the step it interrupts


class Engine:
    """One model, served from Python.

    Keywords are those of SGLang's Engine and vLLM's LLM (`model_path`, `tp_size`, `dtype`,
    `context_length`, `max_running_requests`, `mem_fraction_static`, ...), or `settings=` with a
    whole EngineSettings. Use it in a `with` block, or call `shutdown`.
    """

    def __init__(self, *, settings: EngineSettings | None = None, **keywords: Any) -> None:
        notices: Sequence[str] = ()
        if settings is None:
            parsed = from_keywords({"log_level": "error", **keywords})
            settings, notices = parsed.settings, parsed.notices
        elif keywords:
            raise RequestError(f"settings and {next(iter(keywords))} are both given")
        logs.set_up(settings.server.log_level)
        for notice in notices:
            log.warning("%s", notice)
        folder = _folder(settings.model)
        self.facts: ModelFacts = read_facts(folder)
        self.settings, self.decisions = _resolved(settings, self.facts, folder)
        self.tokenizer = _tokenizer(self.settings, folder)
        self._chat: ChatTemplate | None = None
        self._running = _start(self.settings, self.facts, folder, self.tokenizer)
        limits = self._running.built.limits
        model = ModelLimits(
            vocabulary=limits.vocabulary,
            context_length=limits.context_length,
            ends=_ends(self.facts, self.tokenizer),
        )
        self._intake = Intake(self.tokenizer, model, _seeds(self.settings.model.seed))
        self._caller = Caller(self._running.client, self.tokenizer)
        self._finalizer = weakref.finalize(self, _Running.stop, self._running)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """End the loop and give back the memory. A second call does nothing."""
        self._finalizer()

    def generate(
        self,
        prompt: Any = None,
        sampling_params: Params = None,
        input_ids: Any = None,
        *,
        stream: bool = False,
        use_tqdm: bool | None = None,
        **words: Any,
    ) -> Any:
        """Continue a prompt (a string or token ids) or a list of them.

        Returns a dict with `text`, `output_ids` and `meta_info`; for several prompts or `n` > 1 a
        list, `n` in a row for each prompt. With `stream`, an iterator of such dicts with the text
        so far, and `index` when there are several. Words beside these: `return_logprob`,
        `logprob_start_len`, `top_logprobs_num`, `token_ids_logprob`, `return_text_in_logprobs`,
        `return_prompt_token_ids`, `priority`, `cache_salt`, `rid`; a list of them has one for each
        prompt. `use_tqdm` says whether a progress line is drawn: else for batches on a terminal.

        Raises RequestError if it cannot be served as asked, and then nothing of it was begun. Of
        several, one that the engine fails on says so in its `finish_reason`.
        """
        asked = ask(self._intake, prompt, input_ids, sampling_params, words)
        return self._stream(asked) if flag("stream", stream) else self._caller.wait(asked, use_tqdm)

    async def async_generate(
        self,
        prompt: Any = None,
        sampling_params: Params = None,
        input_ids: Any = None,
        *,
        stream: bool = False,
        **words: Any,
    ) -> Any:
        """`generate` for an event loop: awaited, it gives the reply, or an async iterator."""
        arguments = (self._intake, prompt, input_ids, sampling_params, words)
        asked = await asyncio.to_thread(ask, *arguments) if is_long(prompt) else ask(*arguments)
        if flag("stream", stream):
            return self._async_stream(asked)
        return await self._caller.async_wait(asked)

    def chat(
        self,
        messages: Any,
        sampling_params: Params = None,
        *,
        tools: Any = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **words: Any,
    ) -> Any:
        """Answer a conversation, or a list of them, through the model's own chat template."""
        for word in ("prompt", "input_ids"):
            if word in words:
                raise RequestError(f"chat() takes no {word}", hint="give messages")
        talks, several = chats(
            messages, tools, add_generation_prompt, continue_final_message, chat_template_kwargs
        )
        prompts = [self._template().tokens(talk) for talk in talks]
        given = prompts if several else prompts[0]
        return self.generate(input_ids=given, sampling_params=sampling_params, **words)

    def abort(self, rid: str) -> int:
        """End the running requests with exactly this id, the `rid` they were given or the one in
        `meta_info`; returns how many.
        """
        return self._running.abort(rid)

    def flush_cache(self) -> None:
        """Forget all cached prefixes that no running request uses."""
        self._running.client.flush()

    def get_tokenizer(self) -> HfTokenizer | None:
        return self.tokenizer

    def get_model_info(self) -> dict[str, Any]:
        return {
            "model_path": self.settings.model.path,
            "served_model_name": self.settings.model.served_name or self.settings.model.path,
            "architecture": self.facts.architecture,
            "context_length": self._running.built.limits.context_length,
            "vocabulary": self.facts.vocabulary,
            "dtype": self.settings.model.dtype,
            "is_generation": True,
        }

    def get_server_info(self) -> dict[str, Any]:
        """What the engine settled on and why, and its counters."""
        return {
            "decisions": {one.field: (one.value, one.reason) for one in self.decisions},
            "statistics": self.statistics(),
            **self.get_model_info(),
        }

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, and what is running and cached now."""
        return self._running.statistics()

    def get_metrics(self) -> dict[str, Any]:
        """The same, as vLLM calls it."""
        return self.statistics()

    def __getattr__(self, name: str) -> Any:
        if name in _NOT_BUILT:
            raise NotBuilt(f"Engine.{name} is not supported", hint=_NOT_BUILT[name])
        raise AttributeError(f"'Engine' object has no attribute {name!r}")

    def _stream(self, asked: Asked) -> Iterator[dict[str, Any]]:
        """Holds on to the engine until the last of it."""
        yield from self._caller.stream(asked)

    async def _async_stream(self, asked: Asked) -> AsyncIterator[dict[str, Any]]:
        async with aclosing(self._caller.async_stream(asked)) as news:
            async for one in news:
                yield one

    def _template(self) -> ChatTemplate:
        if self.tokenizer is None:
            raise NoChatTemplate
        if self._chat is None:
            self._chat = ChatTemplate(self.tokenizer)
        return self._chat


class _Running:
    """The loop on its thread, and the client that talks to it. Knows nothing of the Engine, so
    that an Engine nobody refers to any more can be collected, and its loop ended.
    """

    def __init__(self, client: Client, built: Built) -> None:
        self.client = client
        self.built = built
        self._thread = threading.Thread(target=self._run, name="espalier-loop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.built.loop.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)
        self.client.died(Failure(kind="EngineStopped", message="the engine was shut down"))
        self.built.executor.close()

    def abort(self, label: str) -> int:
        entries = self.client.table.named(label)
        self.client.abort(entries)
        return len(entries)

    def statistics(self) -> dict[str, Any]:
        parts = (
            self.built.scheduler.statistics(),
            self.built.scheduler.state.cache.statistics(),
        )
        said = {name: value for part in parts for name, value in asdict(part).items()}
        return {**said, "table": len(self.client.table)}

    def _run(self) -> None:
        try:
            self.built.loop.run()
        except Exception as error:
            log.exception("the engine's loop ended")
            hint = "make a new Engine; the log says what happened"
            message = f"the engine failed: {error}"
            self.client.died(Failure(kind="EngineFailed", message=message, hint=hint))


def _start(
    settings: EngineSettings, facts: ModelFacts, folder: Path, tokenizer: HfTokenizer | None
) -> _Running:
    limits = limits_of(settings, facts)
    # Half of the queue: requests that are put back while they run stand in it as well.
    room = Room(max(1, limits.max_queued // 2), max(1, limits.max_queued_tokens // 2))
    client = Client(tokenizer, room=room)
    built = build(settings, facts, folder, client.take)
    client.connect(built.loop)
    return _Running(client, built)


def _resolved(
    settings: EngineSettings, facts: ModelFacts, folder: Path
) -> tuple[EngineSettings, tuple[Decision, ...]]:
    settings, decisions = resolve(
        settings, facts, this_machine(settings.kernels.device), stored(folder)
    )
    return settings, tuple(decisions)


def _folder(model: ModelSettings) -> Path:
    """The checkpoint's files, fetched from the hub if they are not here."""
    if not model.path:
        raise ConfigError(
            "no model is named", hint="give model_path: a folder, or a hub's org/name"
        )
    places = hub_places(environment(), Path.home())
    if model.download_dir is not None:
        places = replace(places, cache=Path(model.download_dir).expanduser())
    is_here = model.revision is None or local_folder(model.path) is not None
    return find(model.path if is_here else f"{model.path}@{model.revision}", places)


def _tokenizer(settings: EngineSettings, folder: Path) -> HfTokenizer | None:
    if settings.model.skip_tokenizer:
        return None
    place = settings.model.tokenizer_path
    where = folder if place is None else find(place, hub_places(environment(), Path.home()))
    template = settings.model.chat_template
    kept = Path.home() / ".cache" / "espalier" / "tokenizers"
    written = None if template is None else Path(template).read_text("utf-8")
    return load(where, cache=kept, template=written)


def _ends(facts: ModelFacts, tokenizer: HfTokenizer | None) -> tuple[int, ...]:
    """The tokens that end a text: what the checkpoint says, and what its tokenizer says."""
    ends = dict.fromkeys(facts.eos)
    if tokenizer is not None and tokenizer.special.eos is not None:
        ends[tokenizer.special.eos] = None
    return tuple(token for token in ends if token < facts.vocabulary)


def _seeds(seed: int | None) -> Callable[[], int]:
    """Where requests without a seed get theirs: from chance, or the same ones every time."""
    draw = secrets.SystemRandom() if seed is None else Random(seed)  # noqa: S311  (noise, no secret)
    return lambda: draw.getrandbits(63)


_EMBEDDINGS = "embeddings are not built yet"
_SCORES = "use generate with return_logprob and logprob_start_len, or token_ids_logprob"
_ADAPTERS = "adapters are not built yet; merge the adapter into the checkpoint"
_WEIGHTS = "make a new Engine with the new weights"
_MEMORY = "shut the engine down, and make a new one later"
_SESSIONS = "send the whole prompt; its prefix is cached"
_NOT_BUILT = {
    **dict.fromkeys(("encode", "async_encode", "embed", "classify"), _EMBEDDINGS),
    **dict.fromkeys(("score", "async_score", "rerank", "async_rerank"), _SCORES),
    "beam_search": "use n, with a temperature above 0",
    **dict.fromkeys(
        (
            "load_lora_adapter",
            "load_lora_adapter_from_tensors",
            "unload_lora_adapter",
            "async_load_lora_adapter",
            "async_unload_lora_adapter",
        ),
        _ADAPTERS,
    ),
    **dict.fromkeys(
        (
            "update_weights_from_disk",
            "update_weights_from_tensor",
            "update_weights_from_distributed",
            "update_weights_from_ipc",
            "init_weights_update_group",
            "destroy_weights_update_group",
            "begin_weight_update",
            "end_weight_update",
        ),
        _WEIGHTS,
    ),
    "get_weights_by_name": "read them from the checkpoint's files",
    **dict.fromkeys(("save_remote_model", "save_sharded_model"), "copy the checkpoint's files"),
    "collective_rpc": "code is never sent to workers",
    **dict.fromkeys(
        ("release_memory_occupation", "resume_memory_occupation", "sleep", "wake_up"), _MEMORY
    ),
    **dict.fromkeys(("start_profile", "stop_profile"), "use py-spy, or torch's profiler"),
    **dict.fromkeys(("open_session", "close_session"), _SESSIONS),
}
