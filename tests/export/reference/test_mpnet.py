"""MPNet's buckets of distances."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
modeling = pytest.importorskip("transformers.models.mpnet.modeling_mpnet")

from torchless_export.reference.mpnet import _distance_bucket  # noqa: E402


def test_each_distance_is_in_the_bucket_of_the_original():
    distances = np.arange(-5000, 5001)
    wanted = modeling.MPNetEncoder.relative_position_bucket(torch.from_numpy(distances)).numpy()
    found = _distance_bucket(distances, 32)
    np.testing.assert_array_equal(found, wanted)
    assert set(found.tolist()) == set(range(32)) - {16}  # there is no distance of zero ahead
