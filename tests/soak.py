"""Uses a pipeline hard, for as long as it is told to, and says what it saw; by hand: `make soak`.

    python tests/soak.py BUNDLE [--seconds 60] [--threads 64] [--texts 200000] [--variant fp32]

1. Threads, for so many seconds, each with random inputs (texts, lists, streams, pairs; of all lengths): every answer is
   compared with the one that a single thread gave before.
2. Texts of random lengths as one stream: resident memory, seen every tenth of them, stays where it was after the first.
3. The process forks and answers in the child; a stream is left open when the interpreter ends.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import torchless

WORDS = [
    "a",
    "fine",
    "film",
    "dull",
    "great",
    "not",
    "good",
    "!",
    "never",
    ",",
    "the",
    "plot",
    "of",
    "this",
    "is",
    "was",
    "too",
    "so",
    "it",
    "映画",
    "é",
    "waiting",
]


def random_text(draw: random.Random, longest: int) -> str:
    """Return so many words or fewer; a tenth of all texts are long, and some are empty."""
    count = draw.randrange(longest) if draw.random() < 0.1 else draw.randrange(30)
    return " ".join(draw.choices(WORDS, k=count))


def resident() -> int:
    """Return the memory of this process that is resident, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def close(one: list[Any], other: list[Any], tolerance: float) -> bool:
    """Tell whether two answers name the same scores for the same labels."""
    # A text given alone has its labels in a list of one, as transformers has it.
    both = [answer[0] if isinstance(answer[0], list) else answer for answer in (one, other)]
    scores = [{entry["label"]: entry["score"] for entry in answer} for answer in both]
    return scores[0].keys() == scores[1].keys() and all(
        abs(scores[0][label] - scores[1][label]) <= tolerance for label in scores[0]
    )


def hammer(pipe: Any, threads: int, seconds: float, seed: int = 0, longest: int = 200) -> tuple[int, list[str]]:
    """Let `threads` threads use the pipeline at once; returns the number of answers, and what was wrong.

    The pipeline gives all labels (`top_k=None`), and a text's answer does not depend on its batch (fp32).
    """
    draw = random.Random(seed)
    texts: list[Any] = [random_text(draw, longest) for _ in range(300)]
    texts += [{"text": random_text(draw, 20), "text_pair": random_text(draw, 20)} for _ in range(100)]
    expected = [pipe(text, truncation=True) for text in texts]
    wrong: list[str] = []
    counts = [0] * threads
    end = time.monotonic() + seconds
    barrier = threading.Barrier(threads)

    def work(number: int) -> None:
        mine = random.Random(f"{seed} {number}")
        barrier.wait()
        try:
            while time.monotonic() < end and not wrong:
                chosen = mine.choices(range(len(texts)), k=mine.choice([1, 1, 3, 17, 40]))
                form = mine.choice(["one", "list", "stream", "sized"])
                given = [texts[i] for i in chosen]
                if form == "one":
                    answers = [pipe(text, truncation=True) for text in given[:3]]
                elif form == "stream":
                    answers = list(pipe(iter(given), truncation=True))
                else:
                    answers = pipe(given, truncation=True, batch_size=mine.randrange(1, 9) if form == "sized" else None)
                for i, answer in zip(chosen, answers, strict=form != "one"):
                    counts[number] += 1
                    if not close(answer, expected[i], 1e-6):
                        wrong.append(f"thread {number}, {form}: {texts[i]!r} gives {answer}, alone {expected[i]}")
        except BaseException as error:
            wrong.append(f"thread {number}: {error!r}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts), wrong


def stream(pipe: Any, count: int, longest: int = 200, seed: int = 1) -> list[int]:
    """Run `count` random texts as one stream; returns the resident memory after each tenth of them, in bytes."""
    draw = random.Random(seed)
    seen = []

    def texts() -> Iterator[str]:
        for _ in range(count):
            yield random_text(draw, longest)

    for number, _ in enumerate(pipe(texts(), truncation=True, batch_size=32, window=1024), 1):
        if number % max(1, count // 10) == 0:
            seen.append(resident())
    return seen


def main() -> int:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--variant", default="fp32")
    asked = parser.parse_args()
    say = lambda line: print(line, flush=True)  # noqa: E731, T201
    pipe = torchless.pipeline(model=asked.bundle, variant=asked.variant, device="cpu", top_k=None)
    say(f"opened: {resident() >> 20} MiB resident")
    answers, wrong = hammer(pipe, asked.threads, asked.seconds)
    say(f"{asked.threads} threads, {asked.seconds:.0f} s: {answers} answers, {len(wrong)} wrong")
    for line in wrong[:5]:
        say(f"  {line}")
    say(f"then: {resident() >> 20} MiB resident")
    seen = stream(pipe, asked.texts)
    say(f"{asked.texts} texts: {', '.join(str(size >> 20) for size in seen)} MiB resident after each tenth")
    child = os.fork()
    if not child:
        os._exit(0 if close(pipe("a fine film"), pipe(["a fine film"])[0], 1e-6) else 1)
    forked = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    say(f"forked: exit status {forked}")
    left = pipe(iter(["a fine film"] * 1000), truncation=True)
    next(left)
    say("ends with a stream left open")
    return bool(wrong) or forked != 0


if __name__ == "__main__":
    sys.exit(main())
