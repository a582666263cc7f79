import numpy as np
import pytest

from corpus.errors import ArtefactError
from indexer.checks import check_embeddings, check_recall, depth_in_sample, recalls


def test_embeddings_are_held_to_the_mean_cosine():
    theirs = np.eye(4, dtype=np.float32)
    ours = theirs * np.array([[1.0], [1.0], [1.0], [0.93]], dtype=np.float32)
    check_embeddings("embeddings", ours, theirs, setting="build.x")  # .9825
    with pytest.raises(ArtefactError, match=r"expected embeddings to .*got 0\.975; set build\.x to fp32"):
        check_embeddings("embeddings", ours * 0.9925, theirs, setting="build.x")


def test_recall_may_be_lost_by_chance_and_no_further():
    theirs = np.ones(100, dtype=np.float32)
    by_chance, ours = theirs.copy(), theirs.copy()
    by_chance[:3] = 0  # .03 ± .017
    check_recall("embeddings", by_chance, theirs, setting="build.x")
    check_recall("embeddings", theirs, by_chance, setting="build.x")  # a gain
    check_recall("embeddings", 1 - theirs[:19], theirs[:19], setting="build.x")  # too few to tell
    ours[:6] = 0  # .06 ± .024
    with pytest.raises(ArtefactError, match=r"recall@100, got 0\.0600 on 100 searches; set build\.x to fp32"):
        check_recall("embeddings", ours, theirs, setting="build.x")


def test_a_sample_is_searched_as_far_down_as_the_whole():
    assert [depth_in_sample(n, 10_000) for n in (10, 2_000, 10_000)] == [1, 20, 100]


def test_recall_is_the_share_of_wanted_items_among_the_nearest():
    items = np.eye(4, dtype=np.float32)
    queries = np.array([[0.1, 0.9, 0.4, 0.0], [0.6, 0.5, 0.4, 0.3]], dtype=np.float32)
    wanted = [np.array([1, 3]), np.array([0, 1, 2])]
    np.testing.assert_allclose(recalls(queries, items, wanted, 2), [1 / 2, 2 / 3])
    np.testing.assert_allclose(recalls(queries, items, wanted, 9), [1, 1])
