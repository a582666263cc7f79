"""``[retriever]``: the two towers, their training, both indexes and their fusion."""

from typing import Literal

from pydantic import Field, field_validator

from corpus.config import Section

TEXT_FIELDS = ("title", "brand", "category", "description", "attributes")
DEFAULT_MODEL = "default"

IndexKind = Literal["auto", "flat", "flat_fp16", "sq8", "hnsw", "hnsw_sq8", "ivf_flat", "ivf_pq", "ivf_rabitq"]


class RetrieverTrainConfig(Section):
    """``[retriever.train]``: fine-tuning on query-item pairs."""

    epochs: int = Field(default=2, ge=1)  # passes over the pairs
    max_steps: int | None = Field(default=None, ge=1)  # ends training early; None: epochs decide
    batch_size: int = Field(default=64, ge=2)  # query-item pairs per step, of all processes together
    cached_chunk: int | None = Field(default=None, ge=1)  # texts whose activations are held at one time; None: all
    n_uniform_negatives: int = Field(default=64, ge=0)  # items drawn 1/N from the catalogue, added to every batch
    hard_negatives: int = Field(default=0, ge=0)  # mined items per pair, after a training without; 0: no mining
    mining_rounds: int = Field(default=1, ge=1)  # times that is mined; a round that brings no better MRR@10 is the last
    mining_epochs: int = Field(default=1, ge=1)  # passes over the pairs after each mining
    mining_depth: int = Field(default=50, ge=1)  # nearest items of a query from which its negatives are drawn
    mining_skip: int = Field(default=0, ge=0)  # best ranks passed over, where unlabelled answers crowd the top
    mining_margin: float = Field(default=0.95, gt=0, le=1)  # a negative scores below this times the pair's positive
    # 10-15 % of search queries have typing errors: Cucerzan & Brill 2004, "Spelling correction as an iterative process
    # that exploits the collective knowledge of web users"; logs hold those of frequent queries already
    typo_share: float = Field(default=0.1, ge=0, le=1)  # of the queries get a typing error, fresh in every batch
    learning_rate: float = Field(default=5e-5, gt=0)  # the highest, at the end of the warm-up
    lora_rank: int | None = Field(default=None, ge=1)  # of adapters, merged at the end; None: tune all weights
    warmup_share: float = Field(default=0.1, ge=0, le=1)  # of all steps
    weight_decay: float = Field(default=0.01, ge=0)  # AdamW's
    max_grad_norm: float = Field(default=1.0, gt=0)  # gradients are clipped to this norm
    matryoshka_dims: tuple[int, ...] = ()  # the first so many numbers of an embedding learn to stand alone
    temperature: float = Field(default=0.05, gt=0)  # cosines are divided by it
    logq: bool = True  # subtract the log-probability with which the sampler draws each item
    mask_answers: Literal["query", "item"] = "query"  # no negatives: all that ever answered the query, or only the same
    weighting: Literal["sample", "loss"] = "sample"  # where the labels' weights act: in drawing pairs, or in the loss
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where a CUDA device has it, else fp32
    device: Literal["auto", "cpu"] = "auto"  # where to train: CUDA if there is one, or the CPU
    evaluations_per_epoch: int = Field(default=1, ge=1)  # validations, each of which may be the best checkpoint
    patience: int = Field(default=2, ge=1)  # evaluations without a better MRR@10 after which training stops
    valid_examples: int = Field(default=500, ge=1)  # most validation queries per evaluation
    valid_items: int = Field(default=5000, ge=1)  # most items they are ranked among; their positives come on top
    checkpoint_minutes: float = Field(default=3.0, ge=0)  # the most work that a kill can cost
    log_steps: int = Field(default=10, ge=1)  # between two points in TensorBoard
    seed: int = Field(default=13, ge=0)  # of sampling, dropout and shuffling

    @field_validator("matryoshka_dims")
    @classmethod
    def _distinct_dims(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(dim < 1 for dim in value) or len(set(value)) != len(value):
            raise ValueError(f"expected widths above 0, each once; got {', '.join(map(str, value))}")
        return value


class VectorIndexConfig(Section):
    """``[retriever.index]``: FAISS over the item embeddings, inner product.

    What is None is found by a build: the smallest that reaches ``build.min_ann_recall``. A number is kept as it is.
    """

    kind: IndexKind = "auto"  # auto: by items, width, memory and device (docs/operating.md); flat: exact
    m: int = Field(default=32, ge=2)  # hnsw kinds: links per item
    ef_construction: int = Field(default=200, ge=1)  # hnsw kinds: breadth of search while building
    ef_search: int | None = Field(default=None, ge=1)  # hnsw kinds: breadth of search; None: tuned by a build
    nprobe: int | None = Field(default=None, ge=1)  # ivf kinds: cells that a search visits; None: tuned by a build
    refine_factor: int | None = Field(default=None, ge=1)  # compressed kinds: k times so many are rescored; None: tuned
    memory_budget_gib: float | None = Field(default=None, gt=0)  # for auto; None: half of the memory, a GPU's whole
    device: Literal["cpu", "gpu"] = "cpu"  # gpu: FAISS on the GPU, where the installed faiss has one


class LexicalConfig(Section):
    """``[retriever.lexical]``: BM25 boosts of the catalogue's fields; 0 leaves a field out.

    The description weighs little: where only some items have one, a higher boost ranks by who has. On a store of real
    clicks 0.2 halved MRR@10 (.56 to .29), 0.05 cost .01.
    """

    title: float = Field(default=1.0, ge=0)  # boost of the title
    brand: float = Field(default=0.5, ge=0)  # boost of the brand
    category: float = Field(default=0.3, ge=0)  # boost of the category path
    description: float = Field(default=0.05, ge=0)  # boost of the description
    attributes: float = Field(default=0.2, ge=0)  # boost of the attribute values
    identifier: float = Field(default=1.0, ge=0)  # boost of exact item ids, model numbers and barcodes
    language: str = "english"  # whose endings are cut off, as the Snowball stemmers are named; "none" cuts none


class BehaviourConfig(Section):
    """``[retriever.behaviour]``: what is counted in the event log beside training the models."""

    half_life_days: float | None = Field(default=None, gt=0)  # age that halves a choice's weight; None: never
    trend_days: float = Field(default=7.0, gt=0)  # half-life of what counts as recent where a trend is told
    max_queries: int = Field(default=200_000, ge=1)  # logged queries kept, the most frequent
    max_items_per_query: int = Field(default=200, ge=1)  # items kept per query, the most chosen
    neighbours: int = Field(default=50, ge=1)  # logged queries that a query borrows from
    temperature: float = Field(default=0.03, gt=0)  # how fast a neighbour's say falls with its distance
    prior: float = Field(default=1.0, gt=0)  # choices of nothing, added to a query's: one click is no certainty
    max_related: int = Field(default=100, ge=1)  # items kept per item as chosen by the same shoppers
    shrinkage: float = Field(default=1.0, ge=0)  # pseudo-shoppers that keep rare pairs from looking certain


class FusionConfig(Section):
    """``[retriever.fusion]``: how the channels' scores become one."""

    dense_weight: float | None = Field(default=None, ge=0, le=1)  # None: fitted on validation queries; 1: no BM25
    behaviour_weight: float | None = Field(default=None, ge=0, lt=1)  # None: fitted likewise; 0: no query log
    depth: int = Field(default=100, ge=1)  # candidates per channel, and for recall, while fitting
    valid_examples: int = Field(default=500, ge=1)  # most validation queries for fitting


class RetrieverConfig(Section):
    """``[retriever]``: the first stage."""

    base_model: str = DEFAULT_MODEL  # "default": the packaged MiniLM; else a folder or a hub id
    towers: Literal["shared", "separate"] = "shared"  # one encoder for both sides, or one each
    item_fields: tuple[str, ...] = ("title", "brand", "category")  # what the item tower reads, in this order
    max_query_tokens: int = Field(default=32, ge=3, le=512)  # [CLS] and [SEP] included
    max_item_tokens: int = Field(default=64, ge=3, le=512)  # longer passages are cut
    dim: int | None = Field(default=None, ge=1)  # cut embeddings to this width, one of matryoshka_dims; None: all
    train: RetrieverTrainConfig = RetrieverTrainConfig()
    index: VectorIndexConfig = VectorIndexConfig()
    lexical: LexicalConfig = LexicalConfig()
    behaviour: BehaviourConfig = BehaviourConfig()
    fusion: FusionConfig = FusionConfig()

    @field_validator("item_fields")
    @classmethod
    def _known_fields(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in TEXT_FIELDS]
        if unknown or not value or len(set(value)) != len(value):
            raise ValueError(f"expected one or more of {', '.join(TEXT_FIELDS)}, each once; got {', '.join(value)}")
        return value
