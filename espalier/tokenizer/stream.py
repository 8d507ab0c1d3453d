"""One output as its reader gets it: tokens in, text out, ended by the first stop string.

The detokenizer and the stop strings in one, so that what is cut is cut in tokens as well: a step
may bring several tokens, and those after the one that completed a stop are not part of the output.
"""

from __future__ import annotations

from collections.abc import Sequence

from espalier.protocol.arrays import Ids
from espalier.tokenizer.base import Tokenizer
from espalier.tokenizer.detokenize import Detokenizer
from espalier.tokenizer.stop import Cut, StopAutomaton, StopStrings


class TextStream:
    """Text of one sample. Until `min_tokens` have come, stop strings are not looked for."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int] | Ids = (),
        *,
        stops: Sequence[str] | StopAutomaton = (),
        include_stop: bool = False,
        skip_special: bool = True,
        min_tokens: int = 0,
    ) -> None:
        self._detokenizer = Detokenizer(tokenizer, prompt, skip_special=skip_special)
        wanted = isinstance(stops, StopAutomaton) or bool(stops)
        self._stops = StopStrings(stops, include=include_stop) if wanted else None
        self._unchecked = min_tokens if wanted else 0

    def feed(self, ids: Sequence[int] | Ids) -> Cut:
        """The text that `ids` add, and how many of them stand up to the end of a stop, if one came."""
        if self._stops is None:
            return Cut(self._detokenizer.feed(ids), None, len(ids))
        if len(ids) == 1 and not self._unchecked:
            return self._stops.feed(self._detokenizer.feed(ids))
        free = min(self._unchecked, len(ids))
        self._unchecked -= free
        text = self._detokenizer.feed(ids[:free])
        cut = self._stops.feed(*[self._detokenizer.feed((token,)) for token in ids[free:]])
        return Cut(text + cut.text, cut.matched, free + cut.used)

    def finish(self) -> Cut:
        """What was held back, when no token comes any more; a last stop may be in it."""
        rest = self._detokenizer.finish()
        if self._stops is None:
            return Cut(rest)
        cut = self._stops.feed(rest)
        return cut if cut.matched else Cut(cut.text + self._stops.finish())
