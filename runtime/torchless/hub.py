"""The hub: the only importer of `huggingface_hub`, which comes with `tokenizers`."""

from __future__ import annotations

import importlib
import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torchless.errors import TorchlessError, one_line

logger = logging.getLogger("torchless")

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
            cached = _cached(hub, repository, revision)
            if cached is None:
                raise
            choose([str(path.relative_to(cached)).replace("\\", "/") for path in cached.rglob("*") if path.is_file()])
            return cached
        names = [sibling.rfilename for sibling in info.siblings or []]
        wanted = [re.sub(r"([*?\[\]])", r"[\1]", name) for name in choose(names)]
        # The commit, not the branch: nothing may change between the list and the files.
        snapshot = Path(hub.snapshot_download(repository, revision=info.sha, allow_patterns=wanted))
        _remember(snapshot, revision or "main")
        return snapshot
    except TorchlessError:
        raise
    except Exception as failure:  # the hub client's errors and those of its HTTP library have no common base
        raise error(f"{at}: {_reason(failure)}") from failure


def _cached(hub: Any, repository: str, revision: str | None) -> Path | None:
    """Return the snapshot in the local cache, or None.

    `snapshot_download(local_files_only=True)` would not do: huggingface_hub 2 takes a snapshot that lacks
    any file of the repository for an interrupted download, and only some files were wanted.
    """
    config = hub.try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _remember(snapshot: Path, revision: str) -> None:
    """Note which commit `revision` is, where the hub client looks it up without a network (`refs/` in its cache).

    The client itself notes it only where it was asked for by that name, and it was asked for the commit.
    """
    if revision == snapshot.name or ".." in revision or os.path.isabs(revision):
        return
    ref = snapshot.parent.parent / "refs" / revision
    draft = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
    try:
        ref.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(snapshot.name, encoding="ascii")
        draft.replace(ref)
    except OSError:  # a cache that only others may write: found again with a network
        logger.debug("%s: cannot be written", ref, exc_info=True)


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
