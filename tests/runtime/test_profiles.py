"""The table of profiles keeps its own bounds."""

from __future__ import annotations

from typing import Any

import pytest

from torchless.errors import InputError
from torchless.profiles import PROFILES, find_profile


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_profile_is_found_by_its_name(name: str) -> None:
    assert find_profile(name).name == name


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_on_a_gpu_threads_do_not_compute_and_batches_are_large(name: str) -> None:
    found = find_profile(name, "cuda")
    assert not found.shared_by_runs
    assert found.token_budget(10**6) == 8192


@pytest.mark.parametrize("name", ["fast", "", None, ["latency"]])
def test_an_unknown_profile_is_refused(name: Any) -> None:
    with pytest.raises(InputError, match="wanted one of latency, throughput"):
        find_profile(name)


@pytest.mark.parametrize(
    ("tokens", "budget"), [(0, 128), (511, 128), (516, 129), (2047, 511), (2048, 512), (10**9, 512)]
)
def test_few_tokens_make_small_batches_so_that_there_are_several(tokens: int, budget: int) -> None:
    assert find_profile("throughput").token_budget(tokens) == budget


def test_one_run_at_a_time_is_as_large_as_it_may_be() -> None:
    assert {find_profile("latency").token_budget(tokens) for tokens in (0, 100, 10**6)} == {1024}
