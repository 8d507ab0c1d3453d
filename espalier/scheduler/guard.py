"""The one place that catches everything: what goes wrong for one request ends that request only."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from espalier.errors import EngineError, EspalierError, QueueFull, RequestError
from espalier.protocol.messages import Failure

log = logging.getLogger(__name__)
T = TypeVar("T")


def guarded(act: Callable[[], T], fail: Callable[[Failure], None]) -> T | None:
    """What `act` returns; or None, after `fail` was told why it could not."""
    try:
        return act()
    except EspalierError as error:
        fail(failure_of(error))
    except Exception as error:
        # An assertion included: the request is given up with its stack in the log, and the checks
        # of the next step say whether more than the request is wrong.
        log.exception("a request failed inside the engine")
        fail(failure_of(error))
    return None


def failure_of(error: Exception) -> Failure:
    """What the request's owner may read; an error that is not ours says nothing of our insides."""
    kind = type(error).__name__
    if isinstance(error, RequestError):
        return Failure(kind=kind, message=error.message, hint=error.hint, status=400)
    if isinstance(error, QueueFull):
        return Failure(kind=kind, message=error.message, hint=error.hint, status=503)
    if isinstance(error, EngineError):
        return Failure(kind=kind, message=error.message, hint=error.hint, status=500)
    return Failure(kind="InternalError", message="the engine failed on this request", status=500)
