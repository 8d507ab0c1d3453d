"""Which model, and how it is read."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from espalier.config.base import Settings


class ModelSettings(Settings, frozen=True, kw_only=True):
    """Checkpoint, tokenizer, number formats."""

    path: Annotated[str, Meta(description="A checkpoint's folder, or its name on the hub.")] = ""
    served_name: Annotated[str | None, Meta(description="The name clients use for it.")] = None
    revision: Annotated[str | None, Meta(description="Branch, tag or commit on the hub.")] = None
    download_dir: Annotated[str | None, Meta(description="Where downloads are kept.")] = None
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        Meta(description="Number format of weights and arithmetic; auto: the checkpoint's own."),
    ] = "auto"
    context_length: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Most tokens of a request, prompt and output."),
    ] = None
    load_format: Annotated[
        Literal["auto", "safetensors", "dummy"],
        Meta(description="dummy: random weights; needs only config.json."),
    ] = "auto"
    tokenizer_path: Annotated[str | None, Meta(description="If not the checkpoint's own.")] = None
    skip_tokenizer: Annotated[bool, Meta(description="Token ids in and out; no text.")] = False
    chat_template: Annotated[
        str | None, Meta(description="A file with a chat template, in place of the model's.")
    ] = None
    trust_remote_code: Annotated[
        bool, Meta(description="Accepted; code from a checkpoint is never run.")
    ] = False
    seed: Annotated[
        int | None, Meta(description="Where seeds of requests without one are drawn from.")
    ] = None
