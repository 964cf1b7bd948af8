"""Whatever plain data a case or an outcome holds, it survives the crossing. (Apart, because it needs hypothesis.)"""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechlib.checker.encoding import decode, encode

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
tensors = st.builds(
    lambda shape, dtype: (torch.rand(shape) * 9).to(dtype), st.lists(st.integers(0, 3), max_size=3), dtypes
)
plain = st.recursive(
    scalars | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(left, right):
    """Equality of plain data, NaN equal to NaN, types and dtypes included."""
    if type(left) is not type(right):
        return False
    match left:
        case torch.Tensor():
            return left.dtype == right.dtype and torch.equal(left, right)
        case float():
            return left == right or (math.isnan(left) and math.isnan(right))
        case list() | tuple():
            return len(left) == len(right) and all(map(same, left, right))
        case dict():
            return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return left == right


@settings(deadline=None)
@given(plain)
def test_plain_data_survives_the_crossing(value):
    assert same(decode(encode(value)), value)
