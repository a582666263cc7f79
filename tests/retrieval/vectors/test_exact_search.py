import numpy as np

from retrieval.vectors.exact_search import inner_products, nearest

VECTORS = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], dtype=np.float32)
QUERIES = np.array([[1, 0], [0, 2]], dtype=np.float32)


def test_the_nearest_of_all_rows_come_best_first():
    scores, ids = nearest(QUERIES, VECTORS, 3)
    assert ids.tolist() == [[0, 2, 1], [1, 2, 0]] or ids.tolist() == [[0, 2, 1], [1, 2, 3]]
    np.testing.assert_allclose(scores, [[1, 0.6, 0], [2, 1.6, 0]])


def test_the_nearest_of_some_rows_are_named_by_their_place_in_the_whole():
    scores, ids = nearest(QUERIES, VECTORS, 2, np.array([1, 3]))
    assert ids.tolist() == [[1, 3], [1, 3]]
    np.testing.assert_allclose(scores, [[0, -1], [2, 0]])


def test_each_query_scores_its_own_rows_and_padding_comes_last():
    scores = inner_products(QUERIES, VECTORS, np.array([[2, -1], [3, 1]]))
    np.testing.assert_allclose(scores, [[0.6, -np.inf], [0, 2]])
