from hypothesis import given
from hypothesis import strategies as st

from gateway.client.backoff import Backoff


@given(st.floats(0.01, 5), st.floats(5, 100), st.integers(1, 20))
def test_delays_are_drawn_up_to_a_bound_that_doubles_to_its_most(first: float, most: float, n: int) -> None:
    backoff = Backoff(first, most)
    for attempt in range(n):
        assert 0 <= backoff.next() <= min(first * 2**attempt, most)
    backoff.reset()
    assert 0 <= backoff.next() <= first


def test_delays_spread_over_the_whole_range() -> None:
    drawn = sorted(Backoff(1, 8).next() for _ in range(1000))
    assert drawn[0] < 0.05
    assert drawn[-1] > 0.95
    assert 0.4 < drawn[500] < 0.6
