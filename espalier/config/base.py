"""What every struct of settings is: frozen, told by keyword, and closed to unknown names."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all settings. A field's description is its help, and its type is its check."""
