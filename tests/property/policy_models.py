"""The eviction policies and the cache around them in naive Python: lists and dicts, linear searches, whatever reads best.

Each model follows the algorithm as the header of ``csrc/cache/policy_<name>.c`` tells it, not its code. A policy orders
hashes; ``Cache`` calls it in the store's order: reserve, remove what is replaced, victims until there is room, admit.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

__all__ = ["POLICIES", "Cache"]

MASK = 2**64 - 1
Bounds = tuple["int | None", "int | None"]  # entries, bytes; None is no bound


def part(bound: int | None, parts: int, of: int) -> int | None:
    """``parts/of`` of a bound, at least 1."""
    return None if bound is None else max(1, bound * parts // of)


def fills(queue: list[int], sizes: dict[int, int], share: Bounds) -> bool:
    entries, size = share
    return (entries is not None and len(queue) >= entries) or (
        size is not None and sum(sizes[h] for h in queue) >= size
    )


def mix(value: int) -> int:
    """The finalizer of MurmurHash3."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value ^= value >> 33
        value = value * factor & MASK
    return value ^ value >> 33


class Policy:
    """Queues are lists with the youngest first; ``sizes`` are the bytes of the live entries."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.sizes: dict[int, int] = {}
        self.clear()

    def clear(self) -> None:
        self.sizes.clear()
        self.queue: list[int] = []

    def resize(self, bounds: Bounds) -> None:
        self.bounds = bounds

    def reserve(self, count: int) -> None:
        pass

    def admit(self, h: int, size: int) -> None:
        self.sizes[h] = size
        self.queue.insert(0, h)

    def touch(self, h: int) -> None:
        pass

    def victim(self) -> int | None:
        return self.queue[-1] if self.queue else None

    def remove(self, h: int, evicted: bool) -> None:
        self.queue.remove(h)
        del self.sizes[h]


class Fifo(Policy):
    pass


class Lru(Policy):
    def touch(self, h: int) -> None:
        self.queue.remove(h)
        self.queue.insert(0, h)


class Sieve(Policy):
    def clear(self) -> None:
        super().clear()
        self.visited: set[int] = set()
        self.hand: int | None = None

    def touch(self, h: int) -> None:
        self.visited.add(h)

    def younger(self, h: int) -> int | None:
        at = self.queue.index(h)
        return self.queue[at - 1] if at > 0 else None

    def victim(self) -> int | None:
        if not self.queue:
            return None
        hand = self.queue[-1] if self.hand is None else self.hand
        while hand in self.visited:
            self.visited.discard(hand)
            younger = self.younger(hand)
            hand = self.queue[-1] if younger is None else younger
        self.hand = hand
        return hand

    def remove(self, h: int, evicted: bool) -> None:
        if self.hand == h:
            self.hand = self.younger(h)
        self.visited.discard(h)
        super().remove(h, evicted)


class S3Fifo(Policy):
    def clear(self) -> None:
        self.sizes.clear()
        self.small: list[int] = []
        self.main: list[int] = []
        self.ghosts: list[int] = []  # oldest first
        self.used: dict[int, int] = {}

    def admit(self, h: int, size: int) -> None:
        self.sizes[h] = size
        self.used[h] = 0
        if h in self.ghosts:
            self.ghosts.remove(h)
            self.main.insert(0, h)
        else:
            self.small.insert(0, h)

    def touch(self, h: int) -> None:
        self.used[h] = min(3, self.used[h] + 1)

    def victim(self) -> int | None:
        share = (part(self.bounds[0], 1, 10), part(self.bounds[1], 1, 10))
        while self.small or self.main:
            if not self.main or (self.small and fills(self.small, self.sizes, share)):
                h = self.small[-1]
                if self.used[h] < 2:
                    return h
                self.main.insert(0, self.small.pop())
                self.used[h] = 0
            else:
                h = self.main[-1]
                if self.used[h] == 0:
                    return h
                self.main.insert(0, self.main.pop())
                self.used[h] -= 1
        return None

    def remove(self, h: int, evicted: bool) -> None:
        from_small = h in self.small
        (self.small if from_small else self.main).remove(h)
        del self.sizes[h], self.used[h]
        if evicted and from_small:
            live = len(self.small) + len(self.main)
            while self.ghosts and len(self.ghosts) >= live:
                self.ghosts.pop(0)
            if live:
                self.ghosts.append(h)


class Sketch:
    """Four rows of counters from 0 to 15."""

    def __init__(self) -> None:
        self.width = 0
        self.rows: list[dict[int, int]] = [defaultdict(int) for _ in range(4)]
        self.additions = 0

    def reserve(self, width: int) -> None:
        while self.width < width:
            for row in self.rows if self.width else []:
                row.update({column + self.width: count for column, count in list(row.items())})
            self.width = 2 * self.width or 64

    def columns(self, h: int) -> list[int]:
        low, high = mix(h) & 0xFFFFFFFF, mix(h) >> 32 | 1
        return [(low + i * high) % self.width for i in range(4)]

    def add(self, h: int, period: int) -> None:
        for row, column in zip(self.rows, self.columns(h), strict=True):
            row[column] = min(15, row[column] + 1)
        self.additions += 1
        if self.additions >= period:
            self.additions //= 2
            for row in self.rows:
                for column in row:
                    row[column] //= 2

    def estimate(self, h: int) -> int:
        return min(row[column] for row, column in zip(self.rows, self.columns(h), strict=True))


class WTinyLfu(Policy):
    def __init__(self, bounds: Bounds) -> None:
        self.width = 0
        super().__init__(bounds)

    def clear(self) -> None:
        self.sizes.clear()
        self.window: list[int] = []
        self.probation: list[int] = []
        self.protected: list[int] = []
        self.sketch = Sketch()
        self.sketch.reserve(self.width)
        self.chosen: int | None = None
        self.parts, self.step, self.last_rate, self.hits, self.requests = 655, 4096, 0, 0, 0

    def resize(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.chosen = None

    def reserve(self, count: int) -> None:
        self.sketch.reserve(2 * (count + 1))
        self.width = self.sketch.width

    def share(self, parts: int) -> Bounds:
        return part(self.bounds[0], parts, 65536), part(self.bounds[1], parts, 65536)

    def main_share(self) -> Bounds:
        entries, size = (
            None if bound is None or share is None else max(0, bound - share)
            for bound, share in zip(self.bounds, self.share(self.parts), strict=True)
        )
        return entries, size

    def count_request(self, h: int, hit: bool) -> None:
        period = 10 * max(16, len(self.sizes))
        self.sketch.add(h, period)
        self.hits += hit
        self.requests += 1
        if self.requests >= max(period, 2048):
            self.climb()

    def climb(self) -> None:
        rate = self.hits * 65536 // self.requests
        change = rate - self.last_rate
        amount = self.step if change >= -131 else -self.step
        wanted = self.parts + amount
        self.parts = min(max(wanted, 655), 52428)
        following = amount if self.parts == wanted else -amount
        if abs(change) >= 3277:
            magnitude = 4096
        elif following == self.step:
            magnitude = abs(following) * 49 // 50
        else:
            magnitude = abs(following) * 3 // 4
        self.step = magnitude if following >= 0 else -magnitude
        self.last_rate, self.hits, self.requests = rate, 0, 0

    def admit(self, h: int, size: int) -> None:
        self.chosen = None
        self.sizes[h] = size
        self.window.insert(0, h)
        self.count_request(h, False)

    def over(self, queue: list[int], share: Bounds) -> bool:
        entries, size = share
        return (entries is not None and len(queue) > entries) or (
            size is not None and sum(self.sizes[h] for h in queue) > size
        )

    def touch(self, h: int) -> None:
        self.chosen = None
        if h in self.window:
            self.window.remove(h)
            self.window.insert(0, h)
        else:
            (self.probation if h in self.probation else self.protected).remove(h)
            self.protected.insert(0, h)
        while self.over(self.protected, self.share((65536 - self.parts) // 5 * 4)):
            self.probation.insert(0, self.protected.pop())
        self.count_request(h, True)

    def main_has_room(self, size: int) -> bool:
        main = self.probation + self.protected
        entries, room = self.main_share()
        return (entries is None or len(main) < entries) and (
            room is None or sum(self.sizes[h] for h in main) + size <= room
        )

    def choose(self) -> int | None:
        share = self.share(self.parts)
        while self.window and fills(self.window, self.sizes, share) and self.main_has_room(self.sizes[self.window[-1]]):
            self.probation.insert(0, self.window.pop())
        main = self.probation or self.protected
        if not self.window or not main:
            return self.window[-1] if self.window else main[-1] if main else None
        candidate, oldest = self.window[-1], main[-1]
        if not fills(self.window, self.sizes, share):
            return oldest
        if self.sketch.estimate(candidate) <= self.sketch.estimate(oldest):
            return candidate
        self.probation.insert(0, self.window.pop())
        return oldest

    def victim(self) -> int | None:
        if self.chosen is None:
            self.chosen = self.choose()
        return self.chosen

    def remove(self, h: int, evicted: bool) -> None:
        self.chosen = None
        for queue in (self.window, self.probation, self.protected):
            if h in queue:
                queue.remove(h)
        del self.sizes[h]


FIXED: list[tuple[str, type[Policy]]] = [
    ("lru", Lru),
    ("fifo", Fifo),
    ("sieve", Sieve),
    ("s3fifo", S3Fifo),
    ("wtinylfu", WTinyLfu),
]


class Evidence:
    """Leads of the policies over another hit count, in blocks: how many, their sums and the sums of their squares."""

    def __init__(self) -> None:
        self.blocks = 0
        self.sums = [0] * len(FIXED)
        self.squares = [0] * len(FIXED)

    def add_block(self, hits: list[int], other: int) -> None:
        self.blocks += 1
        self.sums = [total + h - other for total, h in zip(self.sums, hits, strict=True)]
        self.squares = [total + (h - other) ** 2 for total, h in zip(self.squares, hits, strict=True)]

    def add_round(self, evidence: Evidence) -> None:
        def aged(value: int) -> int:
            return -(-value * 7 // 8) if value < 0 else value * 7 // 8

        self.blocks = aged(self.blocks) + evidence.blocks
        self.sums = [aged(old) + new for old, new in zip(self.sums, evidence.sums, strict=True)]
        self.squares = [aged(old) + new for old, new in zip(self.squares, evidence.squares, strict=True)]

    def find_clear(self, active: int, margin: int) -> int | None:
        """The policy furthest ahead, if not the active one, by 1/margin of the requests and by 3 standard errors."""
        most = max(self.sums)
        if self.blocks < 4 or most == self.sums[active]:
            return None
        best = self.sums.index(most)
        spread = self.blocks * self.squares[best] - most**2
        clear = most * margin > self.blocks * Auto.BLOCK and most**2 * (self.blocks - 1) > 9 * spread
        return best if clear else None


def rates_differ(a: list[bool], b: list[bool]) -> bool:
    """Whether two lists of hits and misses differ by more than a tenth."""
    return abs(sum(a) * len(b) - sum(b) * len(a)) > len(a) * len(b) // 10


class Auto(Policy):
    SHADOW, BLOCK, WARM, JUDGED = 255, 256, 8, 16

    def __init__(self, bounds: Bounds) -> None:
        self.active_index = 4
        self.active: Policy = WTinyLfu(bounds)
        self.shadows = [Cache(policy, bounds) for _, policy in FIXED]
        super().__init__(bounds)

    def clear(self) -> None:
        self.sizes.clear()
        self.active.clear()
        self.next: tuple[int, Policy] | None = None
        self.phase = "off"
        self.scaled_for = 0
        self.count = 0
        self.wanted: int | None = None
        self.live: list[bool] = []  # whether each live request of this round, or of the last one, was a hit
        self.settle()

    def settle(self) -> None:
        """What was known is forgotten, and there are no pauses for a while."""
        self.settling, self.pause_rounds = 2, 1
        self.early, self.round, self.all = Evidence(), Evidence(), Evidence()

    def resize(self, bounds: Bounds) -> None:
        self.active.resize(bounds)
        self.next = None
        self.bounds = bounds
        self.scaled_for = 0

    def reserve(self, count: int) -> None:
        self.count = count
        if self.wanted is not None:
            self.next = (self.wanted, FIXED[self.wanted][1](self.bounds))
            self.wanted = None
        if self.next is not None:
            self.next[1].reserve(count)
        self.active.reserve(count)

    def admit(self, h: int, size: int) -> None:
        if self.next is not None:
            index, new = self.next
            while (moving := self.active.victim()) is not None:
                moving_size = self.active.sizes[moving]
                self.active.remove(moving, False)
                new.admit(moving, moving_size)
            self.active_index, self.active, self.next = index, new, None
            self.early, self.round, self.all = Evidence(), Evidence(), Evidence()
        self.active.admit(h, size)
        self.sizes[h] = size
        self.observe(h, False)

    def touch(self, h: int) -> None:
        self.active.touch(h)
        self.observe(h, True)

    def victim(self) -> int | None:
        if self.phase == "off" and self.count:
            self.begin_round()
        return self.active.victim()

    def remove(self, h: int, evicted: bool) -> None:
        self.active.remove(h, evicted)
        del self.sizes[h]

    def rescale(self) -> None:
        self.scaled_for = max(1, self.count)
        self.threshold = 2**32 if self.scaled_for <= self.SHADOW else (self.SHADOW << 32) // self.scaled_for
        entries, size = (
            None if bound is None else max(min(bound, 1), bound * self.threshold >> 32) for bound in self.bounds
        )
        for shadow in self.shadows:
            shadow.resize((entries, size))

    def begin_block(self) -> None:
        self.hits = [0] * len(FIXED)
        self.sampled: list[bool] = []  # whether each sampled request of the block was a live hit

    def begin_round(self) -> None:
        rescales = not self.scaled_for or self.count // 2 > self.scaled_for or self.count < self.scaled_for // 2
        if rescales or self.phase != "round":
            for shadow in self.shadows:
                shadow.clear()
            self.warming = self.WARM
            self.begin_block()
        if rescales:
            self.rescale()
            self.all = Evidence()
        self.early, self.round = Evidence(), Evidence()
        self.live_before, self.live = self.live, []
        self.phase = "round"

    def begin_pause(self) -> None:
        longest = self.threshold * 32 >> 32
        rounds = min(self.pause_rounds, longest)
        if self.settling or longest < 2:
            self.settling = max(0, self.settling - 1)
            self.begin_round()
            return
        self.pause_left = (self.BLOCK * (self.WARM + self.JUDGED) << 32) // self.threshold * rounds
        self.pause_rounds = 2 * rounds
        self.phase = "pause"
        self.spell_length = max(1024, 8 * self.count)
        self.spell: list[bool] = []

    def wait(self, hit: bool) -> None:
        self.spell.append(hit)
        moved = False
        if len(self.spell) == self.spell_length:
            moved = rates_differ(self.spell, self.live)
            self.spell = []
        self.pause_left -= 1
        if moved:
            self.settle()
        if moved or not self.pause_left:
            self.begin_round()

    def judge(self) -> None:
        self.early.add_block(self.hits, sum(self.sampled))
        self.round.add_block(self.hits, self.hits[self.active_index])
        self.begin_block()
        if self.warming:
            self.warming -= 1
            if not self.warming:
                self.early, self.round = Evidence(), Evidence()
        best = self.early.find_clear(self.active_index, 20)
        over = not self.warming and self.round.blocks == self.JUDGED
        late = over and best is None
        if late:
            if rates_differ(self.live, self.live_before):
                self.all = Evidence()
                self.pause_rounds = 1
            self.all.add_round(self.round)
            best = self.all.find_clear(self.active_index, 200)
        if best is not None:
            self.wanted = best
            if late:
                self.early, self.round, self.all = Evidence(), Evidence(), Evidence()
            else:
                self.settle()
        if over or best is not None:
            self.begin_pause()

    def observe(self, h: int, hit: bool) -> None:
        if self.phase == "pause":
            self.wait(hit)
            return
        if self.phase == "off":
            return
        self.live.append(hit)
        if mix(h) & 0xFFFFFFFF >= self.threshold:
            return
        self.sampled.append(hit)
        for i, shadow in enumerate(self.shadows):
            in_shadow, _ = shadow.request(h, self.sizes[h])
            self.hits[i] += in_shadow
        if len(self.sampled) == self.BLOCK:
            self.judge()


class Cache:
    """A cache of hashes; every operation answers (hit, evicted hashes in order)."""

    def __init__(self, policy: type[Policy], bounds: Bounds) -> None:
        self.bounds = bounds
        self.sizes: dict[int, int] = {}
        self.policy = policy(bounds)

    def has_room(self, entries: int, size: int) -> bool:
        max_entries, max_bytes = self.bounds
        return (max_entries is None or len(self.sizes) + entries <= max_entries) and (
            max_bytes is None or sum(self.sizes.values()) + size <= max_bytes
        )

    def make_room(self, entries: int, size: int) -> list[int]:
        evicted = []
        while not self.has_room(entries, size) and (victim := self.policy.victim()) is not None:
            self.policy.remove(victim, True)
            del self.sizes[victim]
            evicted.append(victim)
        return evicted

    def set(self, h: int, size: int) -> tuple[bool, list[int]]:
        max_entries, max_bytes = self.bounds
        fits = max_entries != 0 and (max_bytes is None or size <= max_bytes)
        if fits:
            self.policy.reserve(len(self.sizes))
        self.delete(h)
        if not fits:
            return False, []
        evicted = self.make_room(1, size)
        self.sizes[h] = size
        self.policy.admit(h, size)
        return False, evicted

    def request(self, h: int, size: int) -> tuple[bool, list[int]]:
        if h in self.sizes:
            self.policy.touch(h)
            return True, []
        return self.set(h, size)

    def delete(self, h: int) -> tuple[bool, list[int]]:
        if h not in self.sizes:
            return False, []
        self.policy.remove(h, False)
        del self.sizes[h]
        return True, []

    def resize(self, bounds: Bounds) -> tuple[bool, list[int]]:
        self.policy.resize(bounds)
        self.bounds = bounds
        return False, self.make_room(0, 0)

    def clear(self) -> tuple[bool, list[int]]:
        self.policy.clear()
        self.sizes.clear()
        return False, []

    def run(self, operation: tuple[Any, ...]) -> tuple[bool, list[int]]:
        """An operation as ``_core.simulate_operations`` takes it."""
        name, *arguments = operation
        answer: tuple[bool, list[int]] = (
            self.resize((arguments[0], arguments[1])) if name == "resize" else getattr(self, name)(*arguments)
        )
        return answer


POLICIES: dict[str, type[Policy]] = {**dict(FIXED), "auto": Auto}
