"""The prefix index: which token sequences have their keys and values in which pages.

A tree a namespace, whose edges carry runs of whole pages. A look-up may end inside a page: at every
node the first pages of what follows are also kept in sorted order, where the longest common
beginning of a query with any of them is with one of its two neighbours. So a tail is found among
fifty thousand children as fast as among two. Looking up changes nothing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from espalier.cache.node import Loan, Match, Node, common, common_bytes, root_of
from espalier.protocol.arrays import Ids

_MANY = 8


def key_of(tokens: Ids) -> bytes:
    """A page's tokens as bytes. Sorted in any one order, those that share most are neighbours."""
    return tokens.tobytes()


class RadixTree:
    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.version = 0  # grows whenever a look-up might be answered otherwise
        self.settled = 0  # steps up to this one have come back
        self.roots: dict[str, Node] = {}

    def match(self, namespace: str, tokens: Ids, limit: int) -> Match:
        """The longest cached beginning of `tokens`, at most `limit` of them. Reads only."""
        node = self.roots.get(namespace) or root_of(namespace)
        tokens = tokens[:limit]
        size, length = self.page_size, 0
        while len(tokens) - length >= size:
            rest = tokens[length:]
            child = node.children.get(key_of(rest[:size]))
            if child is None:
                break
            used = common(child.tokens, rest)
            whole = used - used % size
            length += whole
            node = child
            if whole < len(child.tokens):
                return self._inside(node, length, used - whole, whole // size)
        return self._at_end(node, length, tokens[length : length + size])

    def root(self, namespace: str) -> Node:
        return self.roots.setdefault(namespace, root_of(namespace))

    def is_ready(self, step: int) -> bool:
        return step <= self.settled

    def split(self, node: Node, used: int) -> Node:
        """Cut a node's edge after `used` tokens; returns the node that ends there."""
        if used == len(node.tokens):
            return node
        assert node.parent is not None, "a root has no edge"
        assert 0 < used < len(node.tokens), "a cut is inside an edge"
        assert not node.stale, "a stale edge stays as it is"
        cut = used // self.page_size
        upper = Node(
            node.namespace,
            node.tokens[:used].copy(),  # a view would keep the whole run alive
            node.pages[:cut].copy(),
            node.parent,
            node.start + used,
            pending=node.pending,
            priority=node.priority,
            created=node.created,
            last_used=node.last_used,
            hits=node.hits,
            pins=node.pins,
        )
        node.parent.children[self.key(upper)] = upper
        node.tokens, node.pages = node.tokens[used:].copy(), node.pages[cut:].copy()
        node.parent = upper
        upper.children[self.key(node)] = node
        upper.keys.append(self.key(node))
        self.version += 1
        return upper

    def key(self, node: Node) -> bytes:
        return key_of(node.tokens[: self.page_size])

    def attach(self, node: Node) -> None:
        """Enter a new node under its parent; a tail that it makes superfluous is the caller's."""
        assert node.parent is not None, "a root is in the tree as it is made"
        key = self.key(node)
        assert key not in node.parent.children, "I5: two children begin with the same page"
        if key not in node.parent.loans:
            insort(node.parent.keys, key)
        node.parent.children[key] = node
        self.version += 1

    def detach(self, node: Node) -> None:
        """Take a node, and so all below it, out of the tree."""
        self.version += 1
        if node.parent is None:
            del self.roots[node.namespace]
            return
        key = self.key(node)
        del node.parent.children[key]
        self.forget_keys(node.parent, [key])

    def prune(self, node: Node) -> None:
        """Drop a root under which nothing is left, or names never used again would pile up."""
        if node.parent is not None or node.pins or node.children or node.loans or node.stale:
            return
        if self.roots.get(node.namespace) is node:
            del self.roots[node.namespace]

    def lend(self, loan: Loan) -> None:
        lent = loan.node.loans.setdefault(loan.key, [])
        if not lent and loan.key not in loan.node.children:
            insort(loan.node.keys, loan.key)
        lent.append(loan)
        self.version += 1

    def withdraw(self, loan: Loan) -> None:
        """End a loan, if a discarded path has not done so already."""
        if not loan.is_entered:
            return
        loan.is_entered = False
        lent = loan.node.loans[loan.key]
        lent.remove(loan)
        if not lent:
            del loan.node.loans[loan.key]
            self.forget_keys(loan.node, [loan.key])
        self.version += 1

    def tails_before(self, parent: Node, key: bytes) -> list[Node]:
        """The tails under `parent` that a page (or longer tail) with this key makes superfluous."""
        shorter = (parent.children.get(key[:length]) for length in range(4, len(key), 4))
        return [tail for tail in shorter if tail is not None]

    def has_beginning(self, parent: Node, key: bytes) -> bool:
        """Whether some child's first page begins with these tokens."""
        place = bisect_left(parent.keys, key)
        while place < len(parent.keys) and parent.keys[place].startswith(key):
            child = parent.children.get(parent.keys[place])
            if child is not None and self.is_ready(child.pending):
                return True
            place += 1
        return False

    def nodes(self) -> Iterator[Node]:
        """Every node in the tree but the roots, parents first."""
        stack = list(self.roots.values())
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            if node.parent is not None:
                yield node

    def forget_keys(self, parent: Node, keys: list[bytes]) -> None:
        """Take keys that nothing bears any more out of the sorted ones."""
        gone = [key for key in keys if key not in parent.children and key not in parent.loans]
        if len(gone) > _MANY:  # each deletion moves all that follow
            dropped = set(gone)
            parent.keys = [key for key in parent.keys if key not in dropped]
            return
        for key in gone:
            del parent.keys[bisect_left(parent.keys, key)]

    def _inside(self, node: Node, length: int, tail: int, page: int) -> Match:
        """The look-up ended inside an edge: what goes on is that edge's next page, or nothing."""
        if not tail:
            return Match(node.namespace, node, length, self.version)
        if not self.is_ready(node.pending):
            return Match(node.namespace, node, length, self.version, awaited=tail)
        return Match(
            node.namespace,
            node,
            length,
            self.version,
            tail_page=int(node.pages[page]),
            tail=tail,
            tail_node=node,
        )

    def _at_end(self, node: Node, length: int, rest: Ids) -> Match:
        """The look-up ended at a node: the best tail is beside the query in the sorted keys."""
        ready, page, owner, pending = 0, -1, None, 0
        key = key_of(rest) if len(rest) and node.keys else b""
        place = bisect_left(node.keys, key)
        sides = (range(place - 1, -1, -1), range(place, len(node.keys))) if key else ()
        for side in sides:
            for index in side:
                tokens = common_bytes(node.keys[index], key)
                if tokens <= ready:
                    break
                found = self._ready_page(node, node.keys[index])
                if found is not None:
                    ready, (page, owner) = tokens, found
                    break
                pending = max(pending, tokens)
        awaited = max(pending - ready, 0)
        return Match(node.namespace, node, length, self.version, page, ready, awaited, owner)

    def _ready_page(self, node: Node, key: bytes) -> tuple[int, Node | None] | None:
        child = node.children.get(key)
        if child is not None and self.is_ready(child.pending):
            return int(child.pages[0]), child
        for loan in node.loans.get(key, ()):
            if self.is_ready(loan.step):
                return loan.page, None
        return None
