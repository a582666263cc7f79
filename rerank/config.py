"""``[reranker]``: what the cross-encoder reads and how it is trained.

``preset = "reference"`` is the recipe this system was specified with: AdamW, learning rate 2e-5, batches of 32 pairs
(4 lists of 8), up to 5 epochs, validation after each. The default departs from it in three numbers:

- **Batch: 16 lists of 8, 128 pairs.** The loss compares the items of one list; its gradient averages over lists, so
  four of them a step are noisy. Grouping lists of like length fills larger batches with little padding, and the cost
  of an optimiser step is paid a quarter as often.
- **Learning rate: 5e-5.** A batch four times larger carries a step about twice as large (the square-root rule), and
  the default base model is small (6 layers) and starts with a fresh scoring head.
- **Epochs: 3.** Negatives are drawn anew in every epoch, but the positives are the same; on the Best Buy clicks the
  first of two epochs was the better one on validation. Early stopping keeps the best epoch under either preset.

These are reasons: the two presets have not been compared on the same data yet.

A value given beside the preset wins over the preset.

The loss is ``both``. The listwise part compares the items of one list and is what orders them; but it says nothing of
the level of a list's logits, so that the same logit is a good chance under one query and a poor one under another. The
pointwise part fixes the level, which calibrated probabilities need. Their sum as the joint answer to both: Sheng et al.
2023, "Joint optimization of ranking and calibration with contextualized hybrid model". On the invented store of
``tests/rerank/conftest.py`` (tiny model, mean of seeds 13 to 16) the cross-encoder alone reached an MRR@10 of .832
listwise, .730 pointwise, .835 with both, at a log loss after calibration of .143, .111 and .118 (base rate: .199).
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from corpus.config import Section

FROM_RETRIEVER = "retriever"  # as base model: start from the tuned retriever's weights

REFERENCE: dict[str, Any] = {
    "epochs": 5,
    "list_size": 8,
    "lists_per_batch": 4,  # x 8 candidates = 32 pairs
    "learning_rate": 2e-5,
    "patience": 5,  # never stops before its five epochs; the best one is kept
}


class HeadWeights(Section):
    """``[reranker.head_weights]``: what each head's logit counts in the ranking value, over the sum of the three.

    Equal by default: a purchase is a positive of all three heads already, so that it counts thrice a click.
    """

    click: float = Field(default=1.0, ge=0)  # of choices of any kind; 0 if the log holds no mere clicks
    cart: float = Field(default=1.0, ge=0)  # of carts and purchases; 0 if no cart was left unbought
    purchase: float = Field(default=1.0, ge=0)  # of purchases alone; 0 if there are none


class RerankerTrainConfig(Section):
    """``[reranker.train]``: the training run."""

    loss: Literal["listwise", "pointwise", "both"] = "both"  # listwise orders, pointwise sets the level
    epochs: int = Field(default=3, ge=1)  # passes over the lists
    list_size: int = Field(default=8, ge=2)  # candidates of one query, positives included
    lists_per_batch: int = Field(default=16, ge=1)  # lists per step; list_size pairs each
    learning_rate: float = Field(default=5e-5, gt=0)  # the highest, at the end of the warm-up
    warmup_share: float = Field(default=0.1, ge=0, lt=1)  # of all steps
    weight_decay: float = Field(default=0.01, ge=0)  # AdamW's
    max_grad_norm: float = Field(default=1.0, gt=0)  # gradients are clipped to this norm
    history_dropout: float = Field(default=0.3, ge=0, le=1)  # share of lists that are trained as an anonymous shopper's
    negatives_depth: int = Field(default=50, ge=1)  # negatives are drawn from so many candidates, by rank
    max_examples: int | None = Field(default=50_000, ge=1)  # searches read from the training split; None: all
    max_steps: int | None = Field(default=None, ge=1)  # ends training early; none: epochs decide
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where a CUDA device has it
    device: Literal["auto", "cpu"] = "auto"  # where to train: CUDA if there is one, or the CPU
    patience: int = Field(default=1, ge=1)  # validations without improvement before training stops
    valid_examples: int = Field(default=300, ge=1)  # most validation searches per validation
    valid_depth: int = Field(default=30, ge=1)  # candidates reranked in validation
    checkpoint_minutes: float = Field(default=10.0, ge=0)  # at most so much work is lost by a kill
    log_steps: int = Field(default=10, ge=1)  # between two points in TensorBoard
    seed: int = Field(default=13, ge=0)  # of drawing lists, dropout and the fresh head


# candidates that the cross-encoder reads of a search: in service, in evaluations, and where the blend learns what a
# candidate means that it did not read
RERANK_DEPTH = 30


class BlendConfig(Section):
    """``[blend]``: the gradient-boosted trees that join both stages' scores with what the event log knows."""

    max_searches: int = Field(default=8000, ge=1)  # validation searches it learns from
    max_reranked: int = Field(default=1500, ge=1)  # how many of them the cross-encoder reads, which takes most time
    min_searches: int = Field(default=200, ge=1)  # with fewer usable ones there is no blend: it would learn noise
    depth: int = Field(default=200, ge=2)  # candidates per search, as many as the server finds
    rerank_depth: int = Field(default=RERANK_DEPTH, ge=0)  # how many of them the cross-encoder reads; as in service
    max_lost: float = Field(default=0.01, ge=0, lt=1)  # share of nDCG@10 that reading less may cost; 0: all is read
    history_dropout: float = Field(default=0.3, ge=0, le=1)  # share of searches that are shown without history as well
    n_leaves: int = Field(default=8, ge=2)  # of a tree: small ones, for a few thousand searches
    min_leaf: int = Field(default=400, ge=1)  # candidates in a leaf
    learning_rate: float = Field(default=0.05, gt=0)  # of each tree
    max_trees: int = Field(default=400, ge=1)  # cross-validation decides how many of them
    patience: int = Field(default=40, ge=1)  # trees without a better nDCG@10 after which no more are tried
    n_folds: int = Field(default=4, ge=2)  # of the cross-validation, by query
    seed: int = Field(default=13, ge=0)  # of folds, dropout and sampling


class RerankerConfig(Section):
    """``[reranker]``: the second stage."""

    preset: Literal["default", "reference"] = "default"  # reference: as Tandem was specified, see rerank/config.py
    base_model: str = "default"  # the packaged MiniLM; "retriever": the tuned retriever; else a folder or a hub id
    n_layers: int | None = Field(default=None, ge=1)  # keep only the base model's first layers; None: all
    teacher: str | None = None  # a finished version, such as "v3": its first n_layers learn to score as all of it does
    item_fields: tuple[str, ...] = ("title", "brand", "category")  # what it reads of an item, in this order
    max_query_tokens: int = Field(default=32, ge=1)  # longer queries are cut
    max_history_tokens: int = Field(default=64, ge=0)  # whole events are left out past it
    max_item_tokens: int = Field(default=48, ge=1)  # longer passages are cut
    history_events: int = Field(default=8, ge=0)  # most events of a history that are read
    head_weights: HeadWeights = HeadWeights()
    train: RerankerTrainConfig = RerankerTrainConfig()

    @model_validator(mode="after")
    def _students_have_a_depth(self) -> Self:
        if self.teacher is not None and self.n_layers is None:
            raise ValueError("expected n_layers beside teacher, such as 2: how many of its layers a student keeps")
        return self

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:  # noqa: ANN401 - pydantic hands over whatever was given
        if not isinstance(values, dict) or values.get("preset") != "reference":
            return values
        given = values.get("train", {})
        if isinstance(given, RerankerTrainConfig):
            given = given.model_dump(exclude_unset=True)
        return {**values, "train": {**REFERENCE, **given}} if isinstance(given, dict) else values
