"""Arrays of limited lifetimes: none overlaps another that is needed at the same moment."""

from hypothesis import given
from hypothesis import strategies as st

from asose_fast.ops.native.placing import Span, placed

spans = st.tuples(st.integers(0, 300), st.integers(0, 9), st.integers(0, 9)).map(
    lambda of: Span(of[0], min(of[1:]), max(of[1:]))
)


@given(st.lists(spans, max_size=12), st.sampled_from([1, 16, 64]))
def test_what_is_needed_at_one_moment_lies_apart(spans, line):
    starts, end = placed(spans, line)
    assert len(starts) == len(spans)
    assert all(start % line == 0 for start in starts)
    ends = [start + -(-span.size // line) * line for start, span in zip(starts, spans, strict=True)]
    assert end == max(ends, default=0)
    for i, one in enumerate(spans):
        for j, other in enumerate(spans[:i]):
            if one.size and other.size and one.first <= other.last and other.first <= one.last:
                assert ends[i] <= starts[j] or ends[j] <= starts[i]


def test_memory_is_used_again():
    assert placed([Span(64, 0, 1), Span(100, 2, 3), Span(64, 1, 1)], 64) == ([0, 0, 64], 128)
