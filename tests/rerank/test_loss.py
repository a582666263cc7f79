import math

import pytest
import torch

from rerank.loss import label_targets, list_loss, listwise_loss, pointwise_loss, teacher_targets


def one_head(values: list[list[float]]) -> torch.Tensor:
    return torch.tensor(values)[..., None]


def test_a_hand_worked_listwise_loss():
    # list 1: scores ln 3 and 0, the first one chosen: -ln(3/4). List 2: equal scores, both chosen alike: ln 2
    logits = torch.tensor([math.log(3.0), 0.0, 5.0, 5.0])[:, None]
    loss = listwise_loss(logits, one_head([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, 1, 2, 3]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_a_hand_worked_pointwise_loss():
    # list 1: chances 3/4 and 1/2, chosen by all and by none; list 2, shorter: chance 1/2, chosen by half
    logits = torch.tensor([math.log(3.0), 0.0, 0.0])[:, None]
    loss = pointwise_loss(logits, one_head([[1.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 1, 2]))
    assert loss.item() == pytest.approx(((math.log(4 / 3) + math.log(2)) / 2 + math.log(2)) / 2)


def test_heads_add_up_and_one_without_a_choice_adds_nothing_listwise():
    logits = torch.tensor([[math.log(3.0), 0.0, 9.0], [0.0, 0.0, -9.0]])
    rates = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    loss = list_loss(logits, label_targets(rates), torch.arange(2), "listwise")
    assert loss.item() == pytest.approx(math.log(4 / 3) + math.log(2))


def test_a_head_without_a_choice_learns_pointwise_that_nothing_was_chosen():
    logits = torch.zeros(2, 2)
    rates = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    loss = list_loss(logits, label_targets(rates), torch.arange(2), "pointwise")
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_both_is_the_sum_of_the_two():
    logits, rates, places = torch.randn(5, 3), torch.rand(2, 3, 3), torch.tensor([0, 1, 2, 3, 4])
    rates[1, 2] = 0  # the second list is shorter
    one, other, both = (
        list_loss(logits, label_targets(rates), places, kind).item() for kind in ("listwise", "pointwise", "both")
    )
    assert both == pytest.approx(one + other)
    assert min(one, other) > 0


def test_rates_of_a_list_become_the_shares_of_its_choices_per_head():
    shares = label_targets(torch.tensor([[[0.9, 0.0], [0.3, 0.0]]])).shares
    torch.testing.assert_close(shares, torch.tensor([[[0.75, 0.0], [0.25, 0.0]]]))


def test_a_teachers_scores_become_shares_and_chances_by_hand():
    logits = torch.tensor([[math.log(3.0)], [0.0], [0.0]])
    targets = teacher_targets(logits, torch.empty(2, 2, 1), torch.tensor([0, 1, 2]))
    torch.testing.assert_close(targets.shares, one_head([[0.75, 0.25], [1.0, 0.0]]))
    torch.testing.assert_close(targets.rates, one_head([[0.75, 0.5], [0.5, 0.0]]))


@pytest.mark.parametrize("kind", ["listwise", "pointwise"])
def test_a_student_that_scores_as_its_teacher_has_nothing_to_learn(kind: str):
    logits, places = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 4])
    targets = teacher_targets(logits, torch.empty(2, 3, 3), places)
    student = logits.clone().requires_grad_()
    list_loss(student, targets, places, kind).backward()
    torch.testing.assert_close(student.grad, torch.zeros(5, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", [listwise_loss, pointwise_loss])
def test_places_behind_a_lists_end_do_not_count(loss):
    logits, places = torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1])
    long, short = (loss(logits, one_head([[0.0, 1.0, *end]]), places) for end in ([0.0, 0.0], []))
    assert long.item() == pytest.approx(short.item())


def test_the_gradient_vanishes_where_the_softmax_meets_the_shares():
    shares = torch.tensor([[0.7, 0.2, 0.1]])
    logits = shares.log().T.requires_grad_()
    listwise_loss(logits, shares[..., None], torch.arange(3)).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(3, 1), atol=1e-6, rtol=0)


def test_the_gradient_vanishes_where_the_chance_meets_the_rate():
    rates = torch.tensor([[0.7, 0.2, 0.1]])
    logits = rates.logit().T.requires_grad_()
    pointwise_loss(logits, rates[..., None], torch.arange(3)).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(3, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", [listwise_loss, pointwise_loss])
def test_half_precision_scores_are_compared_in_float32(loss):
    logits = torch.tensor([[1.0], [2.0]], dtype=torch.bfloat16)
    targets, places = one_head([[0.0, 1.0, 0.0]]), torch.tensor([0, 1])
    assert loss(logits, targets, places).dtype == torch.float32
    assert loss(logits, targets, places).item() == pytest.approx(loss(logits.float(), targets, places).item())
