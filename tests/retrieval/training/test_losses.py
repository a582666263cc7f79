import math
from pathlib import Path

import pytest
import torch

from retrieval.config import RetrieverConfig
from retrieval.training.losses import InBatchSoftmaxLoss, in_batch_softmax
from retrieval.training.towers import TowerTokenizer, features_of, load_towers


def own(n_queries: int, n_items: int) -> torch.Tensor:
    """Every query is answered by its own positive alone."""
    return torch.eye(n_queries, n_items, dtype=torch.bool)


def test_the_loss_is_the_cross_entropy_of_the_diagonal():
    logits = torch.tensor([[2.0, 0.0, 1.0], [1.0, 3.0, 0.0]])
    first = -math.log(math.e**2 / (math.e**2 + 1 + math.e))
    second = -math.log(math.e**3 / (math.e + math.e**3 + 1))
    loss = in_batch_softmax(logits, answers=own(2, 3))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_another_item_that_answers_the_query_is_no_negative():
    logits = torch.tensor([[2.0, 5.0, 1.0], [1.0, 3.0, 0.0]])
    answers = own(2, 3)
    answers[0, 1] = True
    first = -math.log(math.e**2 / (math.e**2 + math.e))  # 5.0 takes no part
    second = -math.log(math.e**3 / (math.e + math.e**3 + 1))
    assert in_batch_softmax(logits, answers=answers).item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_a_positive_takes_part_whether_it_is_marked_or_not():
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    nothing = torch.zeros(4, 6, dtype=torch.bool)
    assert in_batch_softmax(logits, answers=nothing) == in_batch_softmax(logits, answers=own(4, 6))


def test_masked_items_get_no_gradient():
    logits = torch.zeros(2, 4, requires_grad=True)
    answers = own(2, 4)
    answers[1, 3] = True
    in_batch_softmax(logits, answers=answers).backward()
    assert logits.grad is not None
    assert logits.grad[1, 3] == 0
    assert logits.grad[0, 3] > 0


def test_weights_weigh_the_queries():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    each = torch.nn.functional.cross_entropy(logits, torch.arange(3), reduction="none")
    loss = in_batch_softmax(logits, answers=own(3, 5), weights=torch.tensor([1.0, 0.0, 3.0]))
    assert loss.item() == pytest.approx(((each[0] + 3 * each[2]) / 4).item(), rel=1e-6)


def test_log_q_makes_popular_items_score_higher_not_lower():
    """A popular item comes up often as a negative; uncorrected, the model learns to push it down for that."""
    logits = torch.zeros(1, 3, requires_grad=True)
    log_q = torch.log(torch.tensor([0.1, 0.8, 0.1]))  # item 1 is popular
    in_batch_softmax(logits, answers=own(1, 3), log_q=log_q).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] < logits.grad[0, 2]  # less push per appearance


@pytest.mark.parametrize("wrong", [0.0, -1.0, 2.0], ids=["uncorrected", "wrong sign", "twice"])
def test_only_the_right_correction_learns_the_true_probabilities(wrong: float):
    """One query; 30 items that answer it with probabilities p; positives drawn by p, drawn negatives uniformly."""
    p = torch.linspace(1, 6, 30) / torch.linspace(1, 6, 30).sum()
    log_uniform = torch.full((128,), -math.log(30))

    def learned(factor: float) -> torch.Tensor:
        draw = torch.Generator().manual_seed(3)
        score = torch.zeros(30, requires_grad=True)
        optimizer = torch.optim.Adam([score], lr=0.05)
        for _ in range(150):
            positives = torch.multinomial(p, 128, replacement=True, generator=draw)
            rows = torch.cat([positives, torch.randint(30, (128,), generator=draw)])
            answers = positives[:, None] == rows[None, :]
            log_q = factor * torch.cat([p.log()[positives], log_uniform])
            loss = in_batch_softmax(score[rows].expand(128, -1), answers=answers, log_q=log_q)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return torch.softmax(score.detach(), dim=0)

    def error(factor: float) -> float:
        return float((learned(factor) - p).abs().sum())

    assert error(1.0) < 0.5 * error(wrong)


@pytest.fixture(scope="module")
def config(tiny_encoder_folder: Path) -> RetrieverConfig:
    return RetrieverConfig(base_model=str(tiny_encoder_folder), max_item_tokens=32)


def test_repeated_texts_are_encoded_once_and_stand_at_all_their_places(config: RetrieverConfig):
    model = load_towers(config, device="cpu").eval()
    tokenize = TowerTokenizer(model, "item", 32)
    loss = InBatchSoftmaxLoss(model, temperature=0.1)
    queries, items = ["red pan", "blue mug"], ["red acme steel pan", "blue vanta coffee mug", "hose"]

    def features(texts: list[str]) -> dict[str, torch.Tensor]:
        return features_of(tokenize(texts))

    short = {"query": torch.tensor([0, 1, 0]), "item": torch.tensor([0, 1, 2, 1])}
    long = {"query": torch.arange(3), "item": torch.arange(4)}
    answers = {"answers": own(3, 4)}
    compact = loss([features(queries), features(items)], short | answers)
    spelt_out = loss([features([*queries, queries[0]]), features([*items, items[1]])], long | answers)
    assert compact.item() == pytest.approx(spelt_out.item(), rel=1e-5)


def test_temperature_divides_the_cosines(config: RetrieverConfig):
    model = load_towers(config, device="cpu").eval()
    tokenize = TowerTokenizer(model, "item", 32)
    texts = ["red pan", "blue mug", "green hose"]
    features = features_of(tokenize(texts))
    vectors = torch.from_numpy(model.encode(texts))
    labels = {"query": torch.arange(2), "item": torch.arange(3), "answers": own(2, 3)}
    for temperature in (1.0, 0.05):
        want = in_batch_softmax(vectors[:2] @ vectors.T / temperature, answers=own(2, 3))
        got = InBatchSoftmaxLoss(model, temperature=temperature)([features, features], labels)
        assert got.item() == pytest.approx(want.item(), rel=1e-4)


def test_the_cached_loss_has_the_plain_losss_gradients(config: RetrieverConfig):
    model = load_towers(config, device="cpu").eval()
    tokenize = TowerTokenizer(model, "item", 32)
    features = [features_of(tokenize(["red pan", "mug"])), features_of(tokenize(["pan", "red acme steel pan", "mug"]))]
    labels = {"query": torch.tensor([0, 1, 0]), "item": torch.tensor([0, 2, 1, 1]), "answers": own(3, 4)}

    def gradients(chunk: int | None) -> list[torch.Tensor]:
        model.zero_grad()
        InBatchSoftmaxLoss(model, temperature=0.1, chunk=chunk)(features, labels).backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    for got, want in zip(gradients(1), gradients(None), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_the_matryoshka_loss_is_the_mean_over_the_widths(config: RetrieverConfig):
    model = load_towers(config, device="cpu").eval()
    features = features_of(TowerTokenizer(model, "item", 32)(["red pan", "blue mug", "green hose"]))
    labels = {"query": torch.arange(2), "item": torch.arange(3), "answers": own(2, 3), "log_q": torch.arange(3.0)}
    vectors = torch.from_numpy(model.encode(["red pan", "blue mug", "green hose"]))

    def loss_of(width: int) -> float:
        kept = vectors[:, :width] / vectors[:, :width].norm(dim=1, keepdim=True)
        logits = kept[:2] @ kept.T / 0.1
        return in_batch_softmax(logits, answers=own(2, 3), log_q=torch.arange(3.0)).item()

    got = InBatchSoftmaxLoss(model, temperature=0.1, dims=(4, 16))([features, features], labels)
    assert got.item() == pytest.approx((loss_of(32) + loss_of(4) + loss_of(16)) / 3, rel=1e-4)
    assert loss_of(4) != pytest.approx(loss_of(32), rel=0.01)
