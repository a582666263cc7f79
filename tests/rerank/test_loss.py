import math

import pytest
import torch

from rerank.loss import listwise_loss


def test_a_hand_worked_loss():
    # list 1: scores ln 3 and 0, the first one chosen: -ln(3/4). List 2: equal scores, both chosen alike: ln 2
    logits = torch.tensor([math.log(3.0), 0.0, 5.0, 5.0])
    targets = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    loss = listwise_loss(logits, targets, torch.tensor([0, 1, 2, 3]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_places_behind_a_lists_end_do_not_count():
    long = listwise_loss(torch.tensor([1.0, 2.0]), torch.tensor([[0.0, 1.0, 0.0, 0.0]]), torch.tensor([0, 1]))
    short = listwise_loss(torch.tensor([1.0, 2.0]), torch.tensor([[0.0, 1.0]]), torch.tensor([0, 1]))
    assert long.item() == pytest.approx(short.item())


def test_the_gradient_vanishes_where_the_softmax_meets_the_shares():
    shares = torch.tensor([[0.7, 0.2, 0.1]])
    logits = shares.log().flatten().requires_grad_()
    listwise_loss(logits, shares, torch.arange(3)).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(3), atol=1e-6, rtol=0)


def test_half_precision_scores_are_compared_in_float32():
    logits = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    loss = listwise_loss(logits, torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([0, 1]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-4)
