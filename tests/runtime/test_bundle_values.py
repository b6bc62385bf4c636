"""A bundle as a value: equal, shown, pickled, and changed by nobody."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest

from made_bundles import FILES, write
from torchless.bundle import Bundle, ModelSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle", FILES)


def test_bundles_are_equal_by_what_they_are_and_cannot_be_changed(folder, monkeypatch):
    monkeypatch.chdir(folder)
    here = Bundle(Path("."), Bundle.open(folder).manifest)
    assert (here.verified, here.trusted) == (True, True)
    monkeypatch.chdir("..")
    there = dataclasses.replace(here, opener=Bundle.open)
    there._config.update(read="already")
    assert (here == there, here.folder == there.folder) == (True, False)
    assert repr(here) == f"Bundle(path={here.path!r}, manifest={here.manifest!r}, verified=True, trusted=True)"
    for value, name in ((here, "trusted"), (ModelSource("path"), "model")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, False)
    with pytest.raises(TypeError):
        Bundle(here.path, here.manifest, True, True, None, {})


def test_trust_is_given_by_name_and_kept_in_a_pickle(folder):
    for trusted, bundle in ((True, Bundle.open(folder)), (False, Bundle.open(path=folder, trusted=False))):
        again = pickle.loads(pickle.dumps(bundle))
        assert (bundle.trusted, again) == (trusted, bundle)
    with pytest.raises(TypeError):
        Bundle.open(folder, False)
