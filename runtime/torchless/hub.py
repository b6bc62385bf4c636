"""The hub: the only importer of `huggingface_hub`, which comes with `tokenizers`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torchless.errors import TorchlessError, one_line

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


def is_repository(name: str) -> bool:
    """Tell whether `name` could be a hub id such as `distilbert-base-uncased` or `org/name`."""
    return bool(_REPOSITORY.fullmatch(name)) and ".." not in name and "--" not in name


def fetch(
    repository: str,
    revision: str | None,
    choose: Callable[[list[str]], Iterable[str]],
    error: type[TorchlessError],
) -> Path:
    """Download the files that `choose` picks from the repository's list; returns the snapshot's directory.

    The directory's last part is the commit, so that what was fetched stays named. Without a network
    (or with HF_HUB_OFFLINE=1) what is in the local cache is used.

    Raises:
        error: no such repository or revision, no access, no network and nothing cached; one line.
    """
    hub: Any = importlib.import_module("huggingface_hub")
    at = f"{repository}@{revision}" if revision else repository
    try:
        try:
            info = hub.HfApi().model_info(repository, revision=revision)
        except Exception as failure:
            if not _is_offline(failure):
                raise
            cached = Path(hub.snapshot_download(repository, revision=revision, local_files_only=True))
            choose([str(path.relative_to(cached)).replace("\\", "/") for path in cached.rglob("*") if path.is_file()])
            return cached
        names = [sibling.rfilename for sibling in info.siblings or []]
        wanted = [re.sub(r"([*?\[\]])", r"[\1]", name) for name in choose(names)]
        # The commit, not the branch: nothing may change between the list and the files.
        return Path(hub.snapshot_download(repository, revision=info.sha, allow_patterns=wanted))
    except TorchlessError:
        raise
    except Exception as failure:  # the hub client's errors and those of its HTTP library have no common base
        raise error(f"{at}: {_reason(failure)}") from failure


def _is_offline(failure: Exception) -> bool:
    names = {base.__name__ for base in type(failure).__mro__}
    answered = getattr(failure, "response", None) is not None
    return not answered and bool(
        names & {"OfflineModeIsEnabled", "ConnectionError", "ConnectError", "TimeoutException", "Timeout"}
    )


def _reason(failure: Exception) -> str:
    names = {base.__name__ for base in type(failure).__mro__}
    if "GatedRepoError" in names:
        return "this repository is gated: accept its terms on its page, then `hf auth login`"
    if "RevisionNotFoundError" in names:
        return "the repository has no such revision; give a branch, tag or commit of it"
    if "RepositoryNotFoundError" in names:
        return "no such directory here and no such repository on the hub, or no access to it"
    if "LocalEntryNotFoundError" in names or _is_offline(failure):
        return "no such directory here, and the hub cannot be reached; nothing of it is in the local cache"
    return f"the hub's files cannot be fetched: {one_line(str(failure), 300)}"
