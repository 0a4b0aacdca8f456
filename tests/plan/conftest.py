"""The order once more, in slow plain Python, written from docs/spec/order.md alone: what the kernels are held against."""

import pytest

WORD = 2**64


class Oracle:
    """One method a formula; fragments are (samples, block_rows, nbytes)."""

    @staticmethod
    def mix(x):
        x %= WORD
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
        return x ^ (x >> 31)

    def key(self, *words):
        k = 0
        for w in words:
            k = self.mix((k ^ w) + 0x9E3779B97F4A7C15)
        return k

    def permute(self, i, n, k):
        b = max(6, (n - 1).bit_length())
        low = b // 2
        high = b - low
        x = i
        while True:
            h, l, c = x >> low, x & (2**low - 1), k  # noqa: E741
            for _ in range(5 if b < 12 else 3):
                c = (c + 0x9E3779B97F4A7C15) % WORD
                h ^= self.mix(c ^ l) & (2**high - 1)
                c = (c + 0x9E3779B97F4A7C15) % WORD
                l ^= self.mix(c ^ h) & (2**low - 1)  # noqa: E741
            x = (h << low) + l
            if x < n:
                return x

    def permuted(self, items, k):
        return [items[self.permute(i, len(items), k)] for i in range(len(items))]

    @staticmethod
    def block_rows(fragments, lanes):
        """Samples of the order blocks of each fragment."""
        total = sum(samples for samples, _, _ in fragments)
        most = 1
        while most * 2 <= max(1, total // (16 * lanes)):
            most *= 2
        return [min(rows, most) for _, rows, _ in fragments]

    def blocks(self, fragments, lanes):
        """Order blocks of each fragment as lists of positions."""
        found, first = [], 0
        for (samples, _, _), rows in zip(fragments, self.block_rows(fragments, lanes), strict=True):
            stop = first + samples
            found.append([list(range(at, min(at + rows, stop))) for at in range(first, stop, rows)])
            first = stop
        return found

    def stream(self, fragments, seed, lanes):
        """The samples of the permuted extents: (position, number of its order block)."""
        numbered, count = [], 0
        for blocks in self.blocks(fragments, lanes):
            numbered.append([[(position, count + n) for position in block] for n, block in enumerate(blocks)])
            count += len(blocks)
        for e in (16, 8, 4, 2, 1):
            extents = [blocks[at : at + e] for blocks in numbered for at in range(0, len(blocks), e)]
            if len(extents) >= 16 * lanes:
                break
        return [sample for extent in self.permuted(extents, self.key(1, seed)) for block in extent for sample in block]

    def run_blocks(self, fragments, lanes, window):
        count = sum(len(blocks) for blocks in self.blocks(fragments, lanes))
        d = max(1, lanes * sum(nbytes for _, _, nbytes in fragments))
        return max(1, min(count, (2 * window * count + d) // (2 * d)))

    def lane_runs(self, samples, lane, *, k, seed, epoch, lanes):
        """The runs of a lane, given its samples in stream order, before their permutation."""
        blocks = []
        for position, number in samples:
            if not blocks or blocks[-1][0] != number:
                blocks.append((number, []))
            blocks[-1][1].append(position)
        if not blocks:
            return []
        blocks = self.permuted([block for _, block in blocks], self.key(3, seed, epoch, lane))
        first = blocks[0]
        c = lane * k % lanes * len(first) // lanes
        head, tail = first[: len(first) - c], first[len(first) - c :]
        later = blocks[1:] + ([tail] if tail else [])
        runs, size = [], 1
        while head:
            runs.append(head[:size])
            head, size = head[size:], size * 2
        size = k - lane * k // lanes
        while later:
            runs.append([position for block in later[:size] for position in block])
            later, size = later[size:], k
        return runs

    def lanes_at(self, seed, epoch, lanes, affinity):
        return list(range(lanes)) if affinity else self.permuted(list(range(lanes)), self.key(2, seed, epoch))

    def positions(self, fragments, *, seed, epoch, lanes, window, affinity):
        """The lane order of a whole epoch."""
        stream = self.stream(fragments, seed, lanes)
        k = self.run_blocks(fragments, lanes, window)
        slot_of = {lane: slot for slot, lane in enumerate(self.lanes_at(seed, epoch, lanes, affinity))}
        order, at = [None] * len(stream), 0
        for lane in range(lanes):
            places = range(slot_of[lane], len(stream), lanes)
            samples = stream[at : at + len(places)]
            at += len(places)
            runs = self.lane_runs(samples, lane, k=k, seed=seed, epoch=epoch, lanes=lanes)
            flat = [p for n, run in enumerate(runs) for p in self.permuted(run, self.key(4, seed, epoch, lane, n))]
            for place, position in zip(places, flat, strict=True):
                order[place] = position
        return order


@pytest.fixture(scope="session")
def oracle():
    return Oracle()
