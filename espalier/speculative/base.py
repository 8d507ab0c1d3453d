"""What proposes drafts. A draft is a guess at the next tokens; the target model verifies it.

Verifying draws the target's own token with that position's own noise and keeps drafts while they
are equal, so the text never depends on what is proposed, or whether.
"""

from __future__ import annotations

from typing import Protocol

from espalier.protocol.arrays import Ids
from espalier.registry import Registry


class Proposer(Protocol):
    def propose(self, tokens: Ids, most: int) -> Ids:
        """Up to `most` tokens that may follow `tokens`; none when there is no good guess."""
        ...


PROPOSERS: Registry[type[Proposer]] = Registry(
    "speculative algorithm", {"ngram": "espalier.speculative.ngram:Ngram"}
)
