"""A storyteller is told to stop while it saves a page: the save is finished, nothing starts after it, nothing is lost.

    python examples/quickstart.py                        offline: a built-in story, no key needed
    python examples/quickstart.py --model openai:gpt-5.2 the same with a real model; its key is in OPENAI_API_KEY
    python examples/quickstart.py --model anthropic:claude-sonnet-4-6
    python examples/quickstart.py --model openai-chat:llama3.2 --base-url http://localhost:11434/v1

Prints:

    Every evening the lamplighter walked the harbour wall and lit forty lamps,
    one after another, and never left one half lit. "Why not stop here?" asked
    the gulls when the rain came in at lamp nineteen. "I will," she said, "as
    soon as this one burns."

    [saving 248 characters ...]
    [stop requested: that is enough for tonight]
    [... saved]

    cancelled by user: that is enough for tonight
    steps: offline completed, save_page completed
    kept:  248 characters, 3 messages to go on from
    usage: 89 tokens in, 109 out
"""

import argparse
import asyncio
import sys

from softstop import Agent, RunContent, RunStopRequested, ToolCallStarted
from softstop.models import Anthropic, Offline, OpenAIChat, OpenAIResponses

INSTRUCTIONS = "Tell a story of two pages. When the first page is told, call save_page with it; then tell the second."


async def save_page(page: str) -> str:
    """Save one page of the story."""
    print(f"\n\n[saving {len(page)} characters ...]")
    await asyncio.sleep(0.8)  # a tool call is an atomic step: once begun, it is finished
    print("[... saved]")
    return "saved"


async def main(model: object) -> str | None:
    agent = Agent(model=model, name="Storyteller", instructions=INSTRUCTIONS, tools=[save_page])
    run = agent.arun("Tell me a story about a lamplighter.")
    async for event in run:
        if isinstance(event, RunContent):
            print(event.content, end="", flush=True)
        elif isinstance(event, ToolCallStarted):
            run.cancel("that is enough for tonight")  # in the middle of the save; from any task, thread or loop
        elif isinstance(event, RunStopRequested):
            print(f"[stop requested: {event.reason}]")

    output = await run
    print(f"\n{output.status}", f"by {output.stop.cause}: {output.stop.reason}" if output.stop else "")
    print("steps:", ", ".join(f"{step.step} {step.status}" for step in output.steps))
    print(f"kept:  {len(output.content)} characters, {len(output.messages)} messages to go on from")
    print(f"usage: {output.usage.input_tokens} tokens in, {output.usage.output_tokens} out")
    return output.errors[0] if output.status == "failed" else None


def chosen(model: str | None, base_url: str | None) -> object:
    if model is None or base_url is None:
        return model or Offline()
    provider, _, name = model.partition(":")
    kinds = {"openai": OpenAIResponses, "openai-chat": OpenAIChat, "anthropic": Anthropic}
    return kinds[provider](name, base_url=base_url)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Stop a storyteller while it saves a page.")
    parser.add_argument("--model", help="provider:name, for instance openai:gpt-5.2")
    parser.add_argument("--base-url", help="another server that speaks the provider's protocol")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(chosen(arguments.model, arguments.base_url))))  # with a reason: prints it, and exits 1
