"""What the commands have in common: settings from arguments, and a model's files from its name."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import structs

from espalier import logs
from espalier.config.cli import parse
from espalier.config.engine import EngineSettings
from espalier.config.env import environment
from espalier.config.model import ModelSettings
from espalier.errors import ConfigError
from espalier.loading.download import Door
from espalier.loading.hub import HubPlaces, cached, hub_name, hub_places, local_folder

log = logging.getLogger(__name__)

_MAX_CONFIG = 16 << 20


def read(argv: Sequence[str]) -> tuple[EngineSettings, list[str]]:
    """The settings and the arguments that are no flags; what had no effect is logged."""
    parsed = parse(argv)
    for word in parsed.rest:
        if word.startswith("-"):
            raise ConfigError(f"{word} is not known", hint="flags begin with two dashes")
    logs.set_up(parsed.settings.server.log_level)
    for notice in parsed.notices:
        log.warning("%s", notice)
    return parsed.settings, list(parsed.rest)


def read_one(argv: Sequence[str]) -> EngineSettings:
    """The same for commands about one model, which may stand without its flag."""
    settings, rest = read(argv)
    said = [path for path in (settings.model.path, *rest) if path]
    if not said:
        raise ConfigError("no model is named", hint="say --model-path FOLDER_OR_NAME")
    if len(said) > 1:
        raise ConfigError(f"one model at a time, not {', '.join(said)}", hint="say it once")
    return structs.replace(settings, model=structs.replace(settings.model, path=said[0]))


def places(model: ModelSettings) -> HubPlaces:
    """The hub, and where its files are kept: as the settings say, else as the environment does."""
    known = environment()
    if model.download_dir:
        known = {**known, "HF_HUB_CACHE": model.download_dir}
    return hub_places(known, Path.home())


def config_folder(model: ModelSettings, work: Path) -> Path:
    """A folder with the model's config.json, which is enough to plan with.

    Whole, if the files are here; otherwise only that one file is fetched, into `work`.
    """
    hub = places(model)
    is_plain = model.revision is None or local_folder(model.path) is not None
    name = model.path if is_plain else f"{model.path}@{model.revision}"
    here = cached(name, hub)
    if here is not None:
        return here
    wanted = hub_name(name)
    if hub.offline:
        raise ConfigError(
            f"{name} is not in {hub.cache}, and HF_HUB_OFFLINE is set",
            hint="plan it once while online, or give its folder",
        )
    door = Door(hub.endpoint, hub.token, time.sleep)
    content = door.read(f"/{wanted.repository}/resolve/{wanted.revision}/config.json", _MAX_CONFIG)
    folder = work / wanted.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes(content)
    return folder
