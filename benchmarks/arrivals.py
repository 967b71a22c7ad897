"""When the calls of an open loop are due."""

import random
from collections.abc import Iterator


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield seconds from the start, ascending: as independent clients come (a Poisson process), the same for a seed."""
    draw = random.Random(seed)
    moment = draw.expovariate(rate)
    while moment < seconds:
        yield moment
        moment += draw.expovariate(rate)
