"""``[server]``, and the root that joins every section of ``tandem.toml``.

Nothing here imports torch or reads a file: the command line validates a configuration before it does anything else.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from corpus.config import Section
from corpus.settings import DataConfig
from indexer.config import BuildConfig, BundleStoreConfig, GateConfig
from rerank.config import RERANK_DEPTH, BlendConfig, RerankerConfig
from retrieval.config import RetrieverConfig


class ServerConfig(Section):
    """``[server]``: where to listen, how deep to look, how long to remember, when to refuse."""

    address: str = "127.0.0.1:50051"  # host:port; port 0 picks a free one; [::]:50051 listens everywhere
    admin_address: str = "127.0.0.1:50052"  # the same for IndexAdminService, which changes items; keep it private
    metrics_address: str = "127.0.0.1:9464"  # host:port of HTTP for Prometheus, /metrics; empty: none
    otlp_endpoint: str | None = Field(default=None, pattern="^https?://")  # traces go there, as OTLP; needs extra otel
    trace_share: float = Field(default=0.01, ge=0, le=1)  # of the calls whose callers do not say whether to trace
    tls_certificate: str | None = None  # PEM, from the store's folder; with it both gRPC addresses speak TLS alone
    tls_key: str | None = None  # its private key, PEM, without a password
    tls_client_ca: str | None = None  # PEM; with it callers need a certificate that one of these authorities signed
    api_keys: str | None = None  # file of `tandem keys`, from the store's folder; with it every call needs a key
    follow_s: float = Field(default=5.0, gt=0)  # between looks at bundles/CURRENT, which another process may change
    log_level: Literal["debug", "info", "warning", "error"] = "info"  # from which level on a record is logged
    processes: int = Field(default=1, ge=0, le=256)  # that serve on one port, Linux alone; 0: one for two cores
    n_threads: int | None = Field(default=None, ge=1)  # of a process's models; default: the cores are shared out

    retrieval_depth: int = Field(default=200, ge=1)  # candidates found, which is also how far a caller can page
    max_retrieval_depth: int = Field(default=1000, ge=1)  # the most that a request may ask for
    rerank_depth: int = Field(default=RERANK_DEPTH, ge=0)  # of the candidates, how many the cross-encoder reads
    max_rerank_depth: int = Field(default=200, ge=0)  # the most that a request may ask for
    hide_out_of_stock: bool = False  # find no items whose in_stock is false; unknown stock stays

    max_filter_characters: int = Field(default=4096, ge=1)  # of a request's filter
    max_filter_terms: int = Field(default=200, ge=1)  # comparisons in a filter, each of which looks at every item
    max_filter_depth: int = Field(default=20, ge=1)  # levels of AND, OR and NOT inside each other
    max_facets: int = Field(default=20, ge=0)  # in one request; one that leaves conditions out searches once more
    default_facet_values: int = Field(default=50, ge=1)  # of a facet, where a request names no number
    max_facet_values: int = Field(default=300, ge=1)  # the most that a request may ask for

    max_boosts: int = Field(default=20, ge=0)  # conditions in one request, each of which looks at every item
    max_pins: int = Field(default=50, ge=0)  # items that a request may put at ranks of their own
    max_labels: int = Field(default=20, ge=0)  # of a request; they go to the log
    max_excluded_items: int = Field(default=1000, ge=0)  # ids in one request; more are a matter for a filter

    default_page_size: int = Field(default=10, ge=1)  # results, where a request names no number
    max_page_size: int = Field(default=100, ge=1)  # the most that a request may ask for
    page_ttl_s: float = Field(default=600.0, gt=0)  # how long a next_page_token is honoured
    # no ranking outlives what it depends on (decision 15): this bounds what nobody has thought of
    repeat_ttl_s: float = Field(default=300.0, ge=0)  # how long a ranking answers repeated searches; 0: it never does
    ranking_cache_mib: int = Field(
        default=96, ge=1
    )  # rankings kept for both, about 13 KB each; those unused longest go first

    default_timeout_ms: float = Field(default=1000.0, gt=0)  # budget of a call that brings no deadline
    reserve_ms: float = Field(default=25.0, ge=0)  # kept back from a deadline for the answer and its way back
    # more of them share more runs of the models, and more wait where the processor is short
    search_threads: int = Field(default=8, ge=1)  # searches that run side by side; others wait for a thread
    # both hold what the models said of shoppers' queries, in memory only; of embeddings the queries' text as well
    query_cache_mib: int = Field(default=16, ge=0)  # embeddings of queries, about 1,800 bytes each; 0: none
    score_cache_mib: int = Field(default=32, ge=0)  # what the cross-encoder said, about 330 bytes a pair; 0: nothing
    max_waiting_searches: int = Field(default=64, ge=1)  # at most at once; fewer where deadlines are near
    max_calls_per_second: float | None = Field(default=None, gt=0)  # of an API key, or an address; one more is refused
    retry_after_ms: float = Field(default=200.0, gt=0)  # what a refused caller is told to wait
    wedged_after_s: float = Field(default=10.0, gt=0, le=10)  # of one search, until the service counts as not ready
    drain_timeout_s: float = Field(default=10.0, ge=0)  # after SIGTERM, for the calls in flight

    history_path: str = "history.sqlite3"  # of the SQLite file with the histories; relative to the store's folder
    history_url: str | None = None  # redis://HOST:6379/0 or rediss://…: keep them there instead, for several machines
    history_timeout_ms: float = Field(default=50.0, gt=0)  # for Redis to take a connection, and again to answer
    history_max_events: int = Field(default=200, ge=1)  # kept per shopper; the oldest go first
    history_ttl_days: float = Field(default=365.0, gt=0, le=36_500)  # age at which an event is forgotten
    max_events_per_request: int = Field(default=100, ge=1)  # of RecordEvents

    default_suggestions: int = Field(default=10, ge=1)  # of Suggest, where a request names no number
    max_suggestions: int = Field(default=50, ge=1)  # the most that a request may ask for
    max_batch_searches: int = Field(default=20, ge=1)  # of BatchSearch
    max_reranked_items: int = Field(default=200, ge=1)  # of Rerank; the cross-encoder reads them all if time allows
    max_embedded_texts: int = Field(default=100, ge=1)  # of Embed

    max_items_per_update: int = Field(default=500, ge=1)  # of UpsertItems and DeleteItems
    max_live_items: int = Field(default=20_000, ge=1)  # changed since the served bundle was built; one more is refused

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("expected both tls_certificate and tls_key, or neither; set the other one too")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("expected tls_certificate beside tls_client_ca, got none; set tls_certificate and tls_key")
        return self

    @model_validator(mode="after")
    def _defaults_fit_limits(self) -> Self:
        for name, limit in (
            ("retrieval_depth", "max_retrieval_depth"),
            ("rerank_depth", "max_rerank_depth"),
            ("default_page_size", "max_page_size"),
            ("default_facet_values", "max_facet_values"),
            ("default_suggestions", "max_suggestions"),
        ):
            if getattr(self, name) > getattr(self, limit):
                raise ValueError(
                    f"expected {name} <= {limit}, got {getattr(self, name)} and {getattr(self, limit)}; raise {limit}"
                )
        return self


class TandemConfig(Section):
    """The whole of ``tandem.toml``; every section and every key has a default."""

    data: DataConfig = Field(default_factory=DataConfig)
    retriever: RetrieverConfig = Field(default_factory=RetrieverConfig)
    reranker: RerankerConfig = Field(default_factory=RerankerConfig)
    blend: BlendConfig = Field(default_factory=BlendConfig)
    build: BuildConfig = Field(default_factory=BuildConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    bundle_store: BundleStoreConfig = Field(default_factory=BundleStoreConfig)
    server: ServerConfig = Field(default_factory=ServerConfig)
