from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification

from rerank.cross_encoder import CrossEncoder, load_classifier
from retrieval.quiet import quiet_libraries

PAIRS = {
    "input_ids": torch.tensor([[2, 9, 3, 10, 3], [2, 11, 3, 12, 3]]),
    "attention_mask": torch.ones(2, 5, dtype=torch.long),
    "token_type_ids": torch.tensor([[0, 0, 0, 1, 1]] * 2),
}


def logits(classifier: object) -> torch.Tensor:
    with torch.no_grad():
        return CrossEncoder(classifier).eval()(**PAIRS)


def published(bert: Path, folder: Path, n_outputs: int) -> torch.Tensor:
    """Save a cross-encoder with so many outputs, and return its answer."""
    torch.manual_seed(1)
    with quiet_libraries():
        model = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=n_outputs)
    model.save_pretrained(folder)
    return logits(model)


def test_a_bare_encoder_gets_three_different_heads(tiny_bert_folder: Path):
    with quiet_libraries():
        answer = logits(load_classifier(str(tiny_bert_folder)))
    assert answer.shape == (2, 3)
    assert not torch.allclose(answer[:, 0], answer[:, 1])


def test_all_heads_start_from_a_single_published_output(tiny_bert_folder: Path, tmp_path: Path):
    want = published(tiny_bert_folder, tmp_path, 1)
    classifier = load_classifier(str(tmp_path))
    torch.testing.assert_close(logits(classifier), want.expand(2, 3))
    classifier.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(logits(load_classifier(str(tmp_path / "again"))), want.expand(2, 3))


def test_three_published_outputs_are_kept(tiny_bert_folder: Path, tmp_path: Path):
    want = published(tiny_bert_folder, tmp_path, 3)
    torch.testing.assert_close(logits(load_classifier(str(tmp_path))), want)


def test_another_number_of_outputs_is_drawn_anew(tiny_bert_folder: Path, tmp_path: Path):
    published(tiny_bert_folder, tmp_path, 2)
    with quiet_libraries():
        assert logits(load_classifier(str(tmp_path))).shape == (2, 3)
