"""What a provider says of a bound of output tokens: only "too large" has the request sent again without it."""

from __future__ import annotations

import pytest

from softstop.models.turns import TOO_LONG

TOO_LARGE = [
    "max_tokens is too large: 971. This model supports at most 50 completion tokens, whereas you provided 971.",
    "max_tokens: 128001 > 64000, which is the maximum allowed number of output tokens for claude-sonnet-4-5",
    "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens`",
    "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
    "'max_completion_tokens' is too large: 4000. This model's maximum context length is 4096 tokens",
    "Invalid 'max_output_tokens': the value exceeds\nthe limit of this model",
]
OTHERS = [
    "`max_tokens` must be greater than `thinking.budget_tokens`. Please consult the documentation",
    "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 5 instead.",
    "max_tokens must be at least 1",
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "prompt is too long: 210000 tokens > 200000 maximum",
]


@pytest.mark.parametrize("message", TOO_LARGE)
def test_a_bound_that_is_too_large_for_the_model_is_left_out(message: str) -> None:
    assert TOO_LONG.search(message)


@pytest.mark.parametrize("message", OTHERS)
def test_a_bound_that_was_refused_for_another_reason_is_kept(message: str) -> None:
    assert not TOO_LONG.search(message)
