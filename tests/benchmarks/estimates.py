"""How near the estimate of a request's input is to what tokenizers count, over kinds of text. Measures no time.

`texts.json` has the texts with their counts: by o200k (GPT-4o and later) and cl100k (GPT-4) of npm's gpt-tokenizer
4.0.0, and by Anthropic's own tokenizer of Claude 2, @anthropic-ai/tokenizer 0.0.4. For each kind of text:
`python -m tests.benchmarks.estimates`.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from softstop.models.estimates import tokens_in

from .measuring import Effort, Row

TEXTS = Path(__file__).with_name("texts.json")
LEAST, MOST = 0.8, 1.5


def ratios(tokenizer: str) -> dict[str, float]:
    """The estimate of each kind of text against the count, the lowest first."""
    kinds = json.loads(TEXTS.read_text("utf-8")).items()
    system = "anthropic" if tokenizer == "claude2" else "openai"
    found = {kind: tokens_in(known["text"], system) / known[tokenizer] for kind, known in kinds}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def share_within(found: dict[str, float]) -> float:
    return 100 * sum(LEAST <= ratio <= MOST for ratio in found.values()) / len(found)


def rows(_: Effort) -> list[Row]:
    found, of_claude = ratios("o200k"), ratios("claude2")
    (least, lowest), *_, (most, highest) = found.items()
    (least_of_claude, lowest_of_claude), *_ = of_claude.items()
    what = f"estimate of the input over {len(found)} kinds of text, against o200k"
    return [
        Row("+", f"{what}: median", median(found.values()), "x"),
        Row("+", f"{what}: least", lowest, "x", 0.6, at_least=True, note=least),
        Row("+", f"{what}: most", highest, "x", note=most),
        Row("+", f"{what}: within 0.8 to 1.5", share_within(found), "%", 90, at_least=True),
        Row("+", "the same for Anthropic, against Claude 2: median", median(of_claude.values()), "x"),
        Row(
            "+",
            "the same for Anthropic, against Claude 2: least",
            lowest_of_claude,
            "x",
            0.6,
            at_least=True,
            note=least_of_claude,
        ),
    ]


def main() -> None:
    tokenizers = {name: ratios(name) for name in ("o200k", "cl100k", "claude2")}
    print(f"{'':18}", *(f"{name:>8}" for name in tokenizers))
    for kind in tokenizers["o200k"]:
        print(f"{kind:18}", *(f"{found[kind]:8.2f}" for found in tokenizers.values()))
    for name, found in tokenizers.items():
        print(f"{name}: median {median(found.values()):.2f}, {share_within(found):.0f} % within {LEAST} to {MOST}")


if __name__ == "__main__":
    main()
