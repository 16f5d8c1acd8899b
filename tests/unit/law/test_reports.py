"""Reports of usage as providers give them: objects of their libraries and JSON, read by their key names."""

from __future__ import annotations

import importlib
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from softstop import MisuseError, Usage
from softstop.law.reports import check_report, read_report

CHAT = {
    "prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140,
    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 0},
}  # fmt: skip
RESPONSES = {
    "input_tokens": 100, "output_tokens": 40, "total_tokens": 140,
    "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
    "output_tokens_details": {"reasoning_tokens": 30},
}  # fmt: skip
ANTHROPIC = {
    "input_tokens": 30, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 10, "output_tokens": 40,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 0},
    "output_tokens_details": {"thinking_tokens": 30}, "service_tier": "standard",
}  # fmt: skip
GOOGLE = {
    "promptTokenCount": 90, "toolUsePromptTokenCount": 10, "cachedContentTokenCount": 60, "candidatesTokenCount": 10,
    "thoughtsTokenCount": 30, "totalTokenCount": 140, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 90}],
}  # fmt: skip
PYDANTIC_AI = {
    "input_tokens": 100, "cache_read_tokens": 60, "cache_write_tokens": 10, "output_tokens": 40,
    "output_reasoning_tokens": 30, "details": {"reasoning_tokens": 30}, "unmeasured_requests": 0,
}  # fmt: skip
REPORTS = {
    "chat": CHAT, "responses": RESPONSES, "anthropic": ANTHROPIC, "google": GOOGLE, "pydantic-ai": PYDANTIC_AI,
}  # fmt: skip
WHOLE = Usage(
    input_tokens=100, output_tokens=40, cache_read_tokens=60, cache_write_tokens=10, reasoning_tokens=30
)  # fmt: skip
OBJECTS = {
    "chat": "openai.types:CompletionUsage",
    "responses": "openai.types.responses:ResponseUsage",
    "anthropic": "anthropic.types:Usage",
    "google": "google.genai.types:GenerateContentResponseUsageMetadata",
    "pydantic-ai": "pydantic_ai.usage:RequestUsage",
}


def of_library(name: str) -> Any:
    """The class of a report; None where its library is not installed."""
    module, _, kind = name.partition(":")
    try:
        return getattr(importlib.import_module(module), kind)
    except ImportError:
        return None


CLASSES = {provider: of_library(name) for provider, name in OBJECTS.items()}  # here: an import may take seconds
of_each_library = pytest.mark.parametrize(
    "provider",
    [
        pytest.param(provider, marks=pytest.mark.skipif(kind is None, reason="its library is not installed"))
        for provider, kind in CLASSES.items()
    ],
)


def expected(provider: str) -> Usage:
    return WHOLE.model_copy(update={"cache_write_tokens": 0}) if provider == "google" else WHOLE  # it counts none


@pytest.mark.parametrize("provider", REPORTS)
def test_the_report_of_each_provider_is_understood_as_json(provider: str) -> None:
    assert read_report(REPORTS[provider]) == expected(provider)


@of_each_library
def test_the_report_of_each_provider_is_understood_as_the_object_of_its_library(provider: str) -> None:
    report = CLASSES[provider](**REPORTS[provider])
    check_report(report)
    assert read_report(report) == expected(provider)
    if hasattr(report, "model_dump"):
        assert read_report(report.model_dump()) == expected(provider)


@pytest.mark.skipif(CLASSES["anthropic"] is None or CLASSES["pydantic-ai"] is None, reason="they are not installed")
def test_the_reports_of_a_part_of_a_stream_and_of_a_whole_run_are_understood_too() -> None:
    delta = of_library("anthropic.types:MessageDeltaUsage")(output_tokens=7, input_tokens=None)
    assert read_report(delta) == Usage(output_tokens=7)
    of_run = of_library("pydantic_ai.usage:RunUsage")
    run = of_run(input_tokens=5, output_tokens=2, cost=Decimal("0.25"), requests=3)
    assert read_report(run) == Usage(input_tokens=5, output_tokens=2, cost_nano_usd=250_000_000)
    assert read_report(of_run(input_tokens=5, unmeasured_requests=1)) == Usage(input_tokens=5, estimated=True)
    priced = {"input_tokens": 5, "cost": Decimal("0.25"), "cost_nano_usd": 7}
    assert read_report(priced) == Usage(input_tokens=5, cost_nano_usd=7), "the caller's own price"
    assert read_report({"input_tokens": 5, "cost": Decimal("NaN")}) == Usage(input_tokens=5), "no price at all"


@pytest.mark.parametrize(
    ("report", "usage"),
    [
        ({**CHAT, "completion_tokens": 10}, WHOLE),  # without the reasoning
        ({**CHAT, "prompt_tokens": 30}, WHOLE),  # without what was cached
        ({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 20}, Usage(input_tokens=5, output_tokens=15)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 0}, Usage(input_tokens=5, output_tokens=2)),
        ({"prompt_tokens": 5, "completion_tokens": None}, Usage(input_tokens=5)),
        ({"promptTokenCount": 5, "totalTokenCount": 5}, Usage(input_tokens=5)),
        ({**GOOGLE, "candidatesTokenCount": None, "responseTokenCount": 10}, expected("google")),
        ({**CHAT, "cost_nano_usd": 7, "model": "m"}, WHOLE.model_copy(update={"cost_nano_usd": 7, "model": "m"})),
        (WHOLE.model_dump(), WHOLE),
    ],
    ids=str,
)
def test_a_total_says_whether_the_whole_has_its_parts(report: Any, usage: Usage) -> None:
    assert read_report(report) == usage


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        ({}, "no counts"),
        ({"tokens": 5}, "no counts"),
        ({1: 2, "total_tokens": 9}, "no counts"),
        ({"output_tokens": None}, "no counts"),
        ({"output_tokens": -1}, "output_tokens: must be a whole number"),
        ({"prompt_tokens": float("nan")}, "prompt_tokens: must be"),
        ({"input_tokens": True}, "input_tokens: must be"),
        ({"input_tokens": 10**12 + 1}, "input_tokens: must be"),
        ({"input_tokens": 10**12, "cache_read_input_tokens": 10**12}, "input_tokens: Input should be less"),
        ({**CHAT, "total_tokens": 139}, "total_tokens: less than its parts"),
        ({**CHAT, "prompt_tokens_details": {"cached_tokens": 101}}, "more than the whole"),
        ({**CHAT, "prompt_tokens_details": {"cached_tokens": "hush"}}, "prompt_tokens_details.cached_tokens: must"),
        ({**RESPONSES, "output_tokens_details": {"reasoning_tokens": 41}}, "more than the whole"),
        ({**PYDANTIC_AI, "cache_write_tokens": 41}, "more than the whole"),
        ({**CHAT, "cost_nano_usd": -1}, "cost_nano_usd"),
        ({**CHAT, "model": 5}, "model"),
    ],
    ids=str,
)
def test_what_cannot_be_true_is_refused_without_a_word_of_the_report(report: Any, problem: str) -> None:
    check_report(report)
    with pytest.raises(ValueError, match=problem) as caught:
        read_report(report)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [None, 100, "5", [], object(), Usage, len, SimpleNamespace(tokens=5)],
    ids=lambda wrong: type(wrong).__name__,
)
def test_what_is_no_report_is_misuse(wrong: Any) -> None:
    with pytest.raises(MisuseError, match=r"run\.charge takes a Usage, or the usage that a provider reported"):
        check_report(wrong)


def test_a_class_is_no_report_and_an_answer_is_told_where_its_report_is() -> None:
    with pytest.raises(MisuseError):
        check_report(type("Report", (), {"prompt_tokens": 0}))  # as a dataclass has its defaults
    with pytest.raises(MisuseError, match=r"; charge its \.usage"):
        check_report(SimpleNamespace(usage=SimpleNamespace(prompt_tokens=5)))


def test_no_library_of_a_provider_is_imported() -> None:
    source = importlib.import_module("softstop.law.reports").__file__
    assert source is not None
    with open(source, encoding="utf-8") as file:
        lines = [line for line in file if line.startswith(("import ", "from "))]
    assert not any(name in line for line in lines for name in ("openai", "anthropic", "google", "pydantic_ai"))


def test_a_total_beyond_its_parts_that_may_be_cached_or_thoughts_is_taken_for_output() -> None:
    counts = {"cache_read_tokens": 5, "reasoning_tokens": 5}
    read = read_report({"input_tokens": 10, "output_tokens": 10, "total_tokens": 25, **counts})
    assert (read.input_tokens, read.output_tokens) == (10, 15)
