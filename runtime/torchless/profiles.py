"""How a session uses the threads of a CPU, or a GPU: a table.

On a GPU nothing of it was measured yet. There a batch is one run, large enough for the matrix units (8,192 tokens are
25 million numbers of BERT's feed-forward network), two are under way at once, so that the next is put together and
copied while one runs, and windows are small, so that tokenizing hides behind the device from the second one on.

What follows was measured with DistilBERT's shape on 2 cores of an AMD EPYC with AVX512-VNNI, ONNX Runtime 1.32.

Spinning: how long an idle thread of ONNX Runtime's pool spins before it sleeps. Its own default burns a CPU for 50 ms
after every run. int8, one text of 16 tokens, a call every 5 ms beside nothing else, then beside another busy process:

    | spinning | back to back | every 5 ms | CPUs used | the other's work |
    | none     | 2.25 ms      | 4.0 ms     | 0.46      | 362              |
    | 50 us    | 1.86         | 4.2        | 0.60      | 370              |
    | 200 us   | 1.82         | 2.9        | 0.74      | 335              |
    | default  | 1.77         | 2.7        | 1.34      | 342              |

ONNX Runtime's global pools, which several sessions could share, spin as its default does (1.34 CPUs) and cannot be told
otherwise from Python; two sessions called in turns took 2.57 ms with them and 2.60 with pools of their own at 50 us.

One run on two threads, or two runs on one each: SST-2 dev, texts/s by the most tokens in a batch:

    |      |                   | 128 | 256 | 512 | 1024 | 2048 |
    | int8 | one run           |     |     | 590 | 660  | 664  |
    |      | two runs at once  | 732 | 790 | 794 | 742  | 685  |
    | fp32 | one run           |     | 232 | 226 | 237  | 227  |
    |      | two runs at once  |     | 241 | 245 | 234  | 201  |
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torchless.cpu import usable_cpus
from torchless.errors import InputError


@dataclass(frozen=True, slots=True)
class Profile:
    """One way to use the threads.

    Attributes:
        name: what `torchless.pipeline(profile=...)` calls it.
        shared_by_runs: whether the threads run one batch each, several at once, or all the same one.
        spinning: ONNX Runtime's configuration entry for idle threads.
        least_tokens, most_tokens: bounds of `token_budget`.
        window: the texts tokenized and sorted together; None: as many as anywhere.
        at_once: the runs under way at once on a device that is no CPU.
    """

    name: str
    shared_by_runs: bool
    spinning: tuple[str, str]
    least_tokens: int
    most_tokens: int
    window: int | None = None
    at_once: int = 1

    def token_budget(self, tokens: int) -> int:
        """Return the most padded tokens in a batch, where there are so many `tokens` in all.

        Not a matter of how many threads there are: the batches, which in int8 have a part in the answers, stay the
        same.
        """
        return max(self.least_tokens, min(self.most_tokens, tokens // 4))


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("latency", False, ("session.intra_op.spin_duration_us", "50"), 1024, 1024),
        Profile("throughput", True, ("session.intra_op.allow_spinning", "0"), 128, 512),
    )
}


def find_profile(name: str, device: str = "cpu") -> Profile:
    """Return the profile called `name` on a kind of device, "cpu" or "cuda".

    Raises:
        InputError: no such profile.
    """
    if not isinstance(name, str) or name not in PROFILES:
        raise InputError(f"profile is {name!r}, wanted one of {', '.join(PROFILES)}")
    profile = PROFILES[name]
    if device == "cpu":
        return profile
    return replace(profile, shared_by_runs=False, least_tokens=8192, most_tokens=8192, window=512, at_once=2)


def check_threads(threads: int | None) -> int:
    """Return how many threads to compute with: all that this process may use where `threads` is None.

    Raises:
        InputError: no whole number from 1 to 1024.
    """
    if threads is None:
        return usable_cpus()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise InputError(f"threads is {threads!r}, wanted a whole number from 1 to 1024, or None for all usable CPUs")
    return threads
