"""DeBERTa's buckets of distances."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
modeling = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")

from torchless_export.reference.deberta import _logarithmic_buckets  # noqa: E402


@pytest.mark.parametrize(
    ("buckets", "furthest"), [(256, 512), (256, 1024), (128, 512), (2, 5), (8, 32), (16, 40), (32, 512)]
)
def test_each_distance_is_in_the_bucket_of_the_original(buckets: int, furthest: int):
    distances = np.arange(-2000, 2001)
    wanted = modeling.make_log_bucket_position(torch.from_numpy(distances), buckets, furthest).long().numpy()
    np.testing.assert_array_equal(_logarithmic_buckets(distances, buckets, furthest), wanted)


def test_buckets_are_those_of_the_paper():
    distances = np.arange(512)
    found = _logarithmic_buckets(distances, 256, 512)
    np.testing.assert_array_equal(found[:129], distances[:129])  # one for each near distance
    assert (np.diff(found) >= 0).all()
    assert found[511] == 255
    np.testing.assert_array_equal(_logarithmic_buckets(-distances, 256, 512), -found)
