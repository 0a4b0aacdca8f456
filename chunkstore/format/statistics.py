"""Statistics of a stream of numbers that can be merged in any order.

The writer takes them while a fragment is written, a commit merges them, and a version document carries them. What is
counted never depends on how the stream was cut: counts, minimum, maximum and histogram of a merge equal those of the
whole exactly, mean and M2 up to float64 rounding.

The histogram's bins are [i·2^k, (i+1)·2^k). k is a function of the finite minimum and maximum alone, so a merge can
only coarsen: a bin of a smaller k lies inside one bin of a larger k, and halving bin numbers is exact.

This module must never do I/O, and never put NaN or an infinity into JSON. Before it: `writing/sinks` with the rows of a
batch. After it: `format/versions`, which stores the JSON.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkstore import _native
from chunkstore.errors import InvalidDataset

MAX_BINS = 64
_BIN_BITS = 53  # bin numbers stay integers that float64 holds exactly
_SMALLEST_EXPONENT = -1074  # 2^-1074 is the smallest positive float64
_PIECE = 1 << 20  # elements that are read twice in a row, from a cache the second time
_KEYS = {"count", "nan", "posinf", "neginf", "min", "max", "mean", "m2", "histogram"}
_HISTOGRAM_KEYS = {"exponent", "first", "counts"}

Number = int | float


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts, range, moments and histogram of a stream of numbers.

    Attributes:
        count: All numbers seen, NaN and infinities included.
        nan: How many were NaN.
        posinf: How many were +inf.
        neginf: How many were -inf.
        min: The smallest finite number, an `int` for integer streams; None when there is none.
        max: The largest finite number, likewise.
        mean: Mean of the finite numbers; None when there are none.
        m2: Sum of squared deviations from the mean; None where float64 cannot hold it.
        exponent: k, where a bin is 2^k wide; `bin_exponent(min, max)`.
        first_bin: i of the first bin [i·2^k, (i+1)·2^k).
        bin_counts: Finite numbers a bin, from `first_bin` to the bin of `max`; at most 64, empty when there are none.
    """

    count: int = 0
    nan: int = 0
    posinf: int = 0
    neginf: int = 0
    min: Number | None = None
    max: Number | None = None
    mean: float | None = None
    m2: float | None = 0.0
    exponent: int = 0
    first_bin: int = 0
    bin_counts: tuple[int, ...] = ()

    @property
    def finite(self) -> int:
        """How many of the numbers are finite: what min, max, mean, m2 and the histogram are of."""
        return self.count - self.nan - self.posinf - self.neginf

    @property
    def std(self) -> float | None:
        """Standard deviation of the finite numbers (of the whole, not of a sample of it), None when unknown."""
        if self.m2 is None or not self.finite:
            return None
        return math.sqrt(self.m2 / self.finite)

    @staticmethod
    def of(values: NDArray[Any]) -> "Statistics":
        """Take the statistics of an array.

        A call costs 15 µs, an element about 1 ns: give it batches, not samples.

        Args:
            values: bool, (u)int8–64 or float16/32/64, any shape and byte order. bfloat16 is given as float32.

        Raises:
            ValueError: Another dtype.
        """
        if values.dtype.kind not in "buif" or values.dtype.itemsize > 8:
            raise ValueError(f"statistics are taken of bool, integers and floats up to 64 bits, not of {values.dtype}")
        flat = values.reshape(-1, order="A")
        if flat.dtype.kind == "b":
            flat = flat.view(np.uint8)
        dtype = np.dtype(np.float32) if flat.dtype == np.float16 else flat.dtype.newbyteorder("=")
        total = Statistics()
        for start in range(0, flat.size, _PIECE):
            total = total.merge(_of_piece(np.ascontiguousarray(flat[start : start + _PIECE], dtype)))
        return total

    def merge(self, other: "Statistics") -> "Statistics":
        """Statistics of both streams together; commutative, and associative up to the rounding of mean and m2.

        Raises:
            ValueError: One stream is of integers and the other of floats.
        """
        if self.min is None or other.min is None:
            kept = other if self.min is None else self
            return Statistics(
                count=self.count + other.count,
                nan=self.nan + other.nan,
                posinf=self.posinf + other.posinf,
                neginf=self.neginf + other.neginf,
                min=kept.min,
                max=kept.max,
                mean=kept.mean,
                m2=kept.m2,
                exponent=kept.exponent,
                first_bin=kept.first_bin,
                bin_counts=kept.bin_counts,
            )
        assert self.max is not None
        assert other.max is not None
        if isinstance(self.min, int) is not isinstance(other.min, int):
            raise ValueError("statistics of integers and of floats do not merge; convert the values to one dtype first")
        smallest, largest = min(self.min, other.min), max(self.max, other.max)
        exponent = bin_exponent(smallest, largest)
        first_bin = bin_of(smallest, exponent)
        bin_counts = [0] * (bin_of(largest, exponent) - first_bin + 1)
        for part in (self, other):
            shift = exponent - part.exponent
            for bin_number, number in enumerate(part.bin_counts, part.first_bin):
                bin_counts[(bin_number >> shift) - first_bin] += number
        mean, m2 = _merge_moments(self, other, float(smallest), float(largest))
        return Statistics(
            count=self.count + other.count,
            nan=self.nan + other.nan,
            posinf=self.posinf + other.posinf,
            neginf=self.neginf + other.neginf,
            min=smallest,
            max=largest,
            mean=mean,
            m2=m2,
            exponent=exponent,
            first_bin=first_bin,
            bin_counts=tuple(bin_counts),
        )

    def to_json(self) -> dict[str, Any]:
        """The value as a JSON object: integers stay integers, nothing in it is NaN or infinite."""
        return {
            "count": self.count,
            "nan": self.nan,
            "posinf": self.posinf,
            "neginf": self.neginf,
            "min": self.min,
            "max": self.max,
            "mean": self.mean,
            "m2": self.m2,
            "histogram": {"exponent": self.exponent, "first": self.first_bin, "counts": list(self.bin_counts)},
        }

    @staticmethod
    def from_json(document: object) -> "Statistics":
        """Read what `to_json` wrote; the input is not trusted.

        Raises:
            InvalidDataset: Keys, types, ranges or sums that no stream of numbers has.
        """
        fields = _object(document, _KEYS, "statistics")
        histogram = _object(fields["histogram"], _HISTOGRAM_KEYS, "statistics.histogram")
        counts = histogram["counts"]
        if not isinstance(counts, list) or len(counts) > MAX_BINS:
            raise InvalidDataset(f"statistics.histogram.counts must be a list of at most {MAX_BINS} counts")
        value = Statistics(
            count=_count(fields["count"], "count"),
            nan=_count(fields["nan"], "nan"),
            posinf=_count(fields["posinf"], "posinf"),
            neginf=_count(fields["neginf"], "neginf"),
            min=_number(fields["min"], "min"),
            max=_number(fields["max"], "max"),
            mean=_float(fields["mean"], "mean"),
            m2=_float(fields["m2"], "m2"),
            exponent=_integer(histogram["exponent"], "histogram.exponent"),
            first_bin=_integer(histogram["first"], "histogram.first"),
            bin_counts=tuple(_count(number, "histogram.counts") for number in counts),
        )
        problem = next(_contradictions(value), None)
        if problem:
            raise InvalidDataset(f"statistics contradict themselves: {problem}")
        return value


def bin_exponent(smallest: Number, largest: Number) -> int:
    """The k of a histogram of numbers in [smallest, largest]: the smallest for which 64 bins hold them all.

    It never falls when the range grows. Bounded below so that bin numbers stay below 2^53 in size, by 0 for integers
    and by -1074 for floats.
    """
    if isinstance(smallest, int) and isinstance(largest, int):
        size_bits = max(abs(smallest), abs(largest)).bit_length()
        span_bits = (largest - smallest).bit_length()
        lowest = 0
    else:
        size_bits = math.frexp(max(abs(smallest), abs(largest)))[1]
        span = largest - smallest
        span_bits = math.frexp(span)[1] if math.isfinite(span) else math.frexp(largest / 2 - smallest / 2)[1] + 1
        lowest = _SMALLEST_EXPONENT
    exponent = lowest
    if smallest or largest:
        exponent = max(exponent, size_bits - _BIN_BITS)
    if smallest != largest:
        # A span of at least 2^(bits - 1) covers 128 bins or more at bits - 8, so the search starts below the answer.
        exponent = max(exponent, span_bits - 8)
    while bin_of(largest, exponent) - bin_of(smallest, exponent) >= MAX_BINS:
        exponent += 1
    return exponent


def bin_of(number: Number, exponent: int) -> int:
    """floor(number / 2^exponent), exactly."""
    if isinstance(number, int):
        return number >> exponent
    scaled = math.ldexp(number, -exponent)
    return -1 if scaled == 0 and number < 0 else math.floor(scaled)


def _of_piece(piece: NDArray[Any]) -> Statistics:
    """Statistics of a flat, contiguous array of a type and byte order that the kernels take."""
    smallest: Number
    largest: Number
    nan, posinf, neginf, smallest, largest, mean = _native.value_range(piece)
    finite = piece.size - nan - posinf - neginf
    if not finite:
        return Statistics(piece.size, nan, posinf, neginf)
    if piece.dtype.kind == "f":
        smallest, largest = smallest + 0.0, largest + 0.0  # one zero, whatever the order of a merge
    if not math.isfinite(mean):
        mean = _native.value_range(piece * 2.0**-64)[-1] * 2.0**64
    mean = min(max(mean, float(smallest)), float(largest))
    exponent = bin_exponent(smallest, largest)
    first_bin = bin_of(smallest, exponent)
    counts, m2 = _native.histogram(piece, mean, exponent, first_bin)
    bin_counts = tuple(counts[: bin_of(largest, exponent) - first_bin + 1])
    return Statistics(
        piece.size,
        nan,
        posinf,
        neginf,
        smallest,
        largest,
        mean,
        _finite_or_none(m2),
        exponent,
        first_bin,
        bin_counts,
    )


def _merge_moments(a: Statistics, b: Statistics, smallest: float, largest: float) -> tuple[float, float | None]:
    """Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).

    The mean is taken as a weighted sum, which is the same for (a, b) and (b, a) and cannot overflow.
    """
    assert a.mean is not None
    assert b.mean is not None
    finite = a.finite + b.finite
    share_a, share_b = a.finite / finite, b.finite / finite
    mean = min(max(a.mean * share_a + b.mean * share_b, smallest), largest)
    if a.m2 is None or b.m2 is None:
        return mean, None
    between = b.mean - a.mean
    return mean, _finite_or_none((a.m2 + b.m2) + between * (between * (a.finite * b.finite / finite)))


def _finite_or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _contradictions(value: Statistics) -> Iterator[str]:
    """What no stream of numbers could have given; the caller takes the first."""
    finite = value.finite
    if sum(value.bin_counts) != finite:
        yield f"the histogram holds {sum(value.bin_counts)} of {finite} finite numbers"
    if value.min is None or value.max is None or value.mean is None:
        if finite or value != Statistics(value.count, value.nan, value.posinf, value.neginf):
            yield "min, max and mean must be null together, when nothing is finite"
        return
    if not finite:
        yield "min and max of no finite numbers"
    if isinstance(value.min, int) is not isinstance(value.max, int) or value.min > value.max:
        yield "min and max must be of one kind, min first"
    if not float(value.min) <= value.mean <= float(value.max):
        yield "the mean is outside [min, max]"
    if value.m2 is not None and value.m2 < 0:
        yield "m2 is negative"
    exponent = bin_exponent(value.min, value.max)
    first_bin, last_bin = bin_of(value.min, exponent), bin_of(value.max, exponent)
    if (value.exponent, value.first_bin, len(value.bin_counts)) != (exponent, first_bin, last_bin - first_bin + 1):
        yield "the histogram's bins are not those of min and max"
    elif not (value.bin_counts[0] and value.bin_counts[-1]):
        yield "the bin of min or max is empty"


def _object(document: object, keys: set[str], name: str) -> Mapping[str, object]:
    if not isinstance(document, dict) or document.keys() != keys:
        raise InvalidDataset(f"{name} must be an object with the keys {', '.join(sorted(keys))}")
    return document


def _integer(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 64:
        raise InvalidDataset(f"statistics.{name} must be an integer of at most 64 bits")
    return value


def _count(value: object, name: str) -> int:
    number = _integer(value, name)
    if not 0 <= number < 1 << 63:
        raise InvalidDataset(f"statistics.{name} must be a count below 2^63, it is {number}")
    return number


def _float(value: object, name: str) -> float | None:
    if value is None:
        return None
    number = float(_integer(value, name)) if not isinstance(value, float) else value
    if not math.isfinite(number):
        raise InvalidDataset(f"statistics.{name} must be a finite number or null")
    return number


def _number(value: object, name: str) -> Number | None:
    return _integer(value, name) if isinstance(value, int) else _float(value, name)
