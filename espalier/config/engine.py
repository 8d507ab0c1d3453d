"""The tree of settings. The only place that lists the groups."""

from __future__ import annotations

from espalier.config.base import Settings
from espalier.config.cache import CacheSettings
from espalier.config.features import SpeculativeSettings
from espalier.config.kernels import KernelSettings
from espalier.config.model import ModelSettings
from espalier.config.parallel import ParallelSettings
from espalier.config.scheduler import SchedulerSettings
from espalier.config.server import ServerSettings


class EngineSettings(Settings, frozen=True, kw_only=True):
    """Everything that can be set. A part is given its own group, never the tree."""

    model: ModelSettings = ModelSettings()
    cache: CacheSettings = CacheSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    parallel: ParallelSettings = ParallelSettings()
    speculative: SpeculativeSettings = SpeculativeSettings()
    kernels: KernelSettings = KernelSettings()
    server: ServerSettings = ServerSettings()
