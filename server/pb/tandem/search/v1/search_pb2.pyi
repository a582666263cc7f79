import datetime

from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_TYPE_UNSPECIFIED: _ClassVar[EventType]
    EVENT_TYPE_SEARCH: _ClassVar[EventType]
    EVENT_TYPE_IMPRESSION: _ClassVar[EventType]
    EVENT_TYPE_CLICK: _ClassVar[EventType]
    EVENT_TYPE_ADD_TO_CART: _ClassVar[EventType]
    EVENT_TYPE_PURCHASE: _ClassVar[EventType]

class SpellCorrectionMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPELL_CORRECTION_MODE_UNSPECIFIED: _ClassVar[SpellCorrectionMode]
    SPELL_CORRECTION_MODE_OFF: _ClassVar[SpellCorrectionMode]
    SPELL_CORRECTION_MODE_SUGGEST: _ClassVar[SpellCorrectionMode]
    SPELL_CORRECTION_MODE_AUTO: _ClassVar[SpellCorrectionMode]

class DegradationReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEGRADATION_REASON_UNSPECIFIED: _ClassVar[DegradationReason]
    DEGRADATION_REASON_DEADLINE: _ClassVar[DegradationReason]
    DEGRADATION_REASON_RERANKER_FAILED: _ClassVar[DegradationReason]
    DEGRADATION_REASON_HISTORY_UNAVAILABLE: _ClassVar[DegradationReason]
    DEGRADATION_REASON_PROBABILITY_UNKNOWN: _ClassVar[DegradationReason]
    DEGRADATION_REASON_RERANKER_SLOW: _ClassVar[DegradationReason]

class EmbedRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMBED_ROLE_UNSPECIFIED: _ClassVar[EmbedRole]
    EMBED_ROLE_QUERY: _ClassVar[EmbedRole]
    EMBED_ROLE_ITEM: _ClassVar[EmbedRole]

class IndexVersionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INDEX_VERSION_STATE_UNSPECIFIED: _ClassVar[IndexVersionState]
    INDEX_VERSION_STATE_AVAILABLE: _ClassVar[IndexVersionState]
    INDEX_VERSION_STATE_LOADING: _ClassVar[IndexVersionState]
    INDEX_VERSION_STATE_ACTIVE: _ClassVar[IndexVersionState]
EVENT_TYPE_UNSPECIFIED: EventType
EVENT_TYPE_SEARCH: EventType
EVENT_TYPE_IMPRESSION: EventType
EVENT_TYPE_CLICK: EventType
EVENT_TYPE_ADD_TO_CART: EventType
EVENT_TYPE_PURCHASE: EventType
SPELL_CORRECTION_MODE_UNSPECIFIED: SpellCorrectionMode
SPELL_CORRECTION_MODE_OFF: SpellCorrectionMode
SPELL_CORRECTION_MODE_SUGGEST: SpellCorrectionMode
SPELL_CORRECTION_MODE_AUTO: SpellCorrectionMode
DEGRADATION_REASON_UNSPECIFIED: DegradationReason
DEGRADATION_REASON_DEADLINE: DegradationReason
DEGRADATION_REASON_RERANKER_FAILED: DegradationReason
DEGRADATION_REASON_HISTORY_UNAVAILABLE: DegradationReason
DEGRADATION_REASON_PROBABILITY_UNKNOWN: DegradationReason
DEGRADATION_REASON_RERANKER_SLOW: DegradationReason
EMBED_ROLE_UNSPECIFIED: EmbedRole
EMBED_ROLE_QUERY: EmbedRole
EMBED_ROLE_ITEM: EmbedRole
INDEX_VERSION_STATE_UNSPECIFIED: IndexVersionState
INDEX_VERSION_STATE_AVAILABLE: IndexVersionState
INDEX_VERSION_STATE_LOADING: IndexVersionState
INDEX_VERSION_STATE_ACTIVE: IndexVersionState

class Item(_message.Message):
    __slots__ = ("item_id", "title", "description", "brand", "category", "price", "currency", "in_stock", "attributes", "image_uri", "updated_at")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: AttributeValues
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[AttributeValues, _Mapping]] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    BRAND_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    IN_STOCK_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_URI_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    title: str
    description: str
    brand: str
    category: _containers.RepeatedScalarFieldContainer[str]
    price: float
    currency: str
    in_stock: bool
    attributes: _containers.MessageMap[str, AttributeValues]
    image_uri: str
    updated_at: _timestamp_pb2.Timestamp
    def __init__(self, item_id: _Optional[str] = ..., title: _Optional[str] = ..., description: _Optional[str] = ..., brand: _Optional[str] = ..., category: _Optional[_Iterable[str]] = ..., price: _Optional[float] = ..., currency: _Optional[str] = ..., in_stock: _Optional[bool] = ..., attributes: _Optional[_Mapping[str, AttributeValues]] = ..., image_uri: _Optional[str] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AttributeValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class HistoryEvent(_message.Message):
    __slots__ = ("type", "timestamp", "item_id", "query")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    type: EventType
    timestamp: _timestamp_pb2.Timestamp
    item_id: str
    query: str
    def __init__(self, type: _Optional[_Union[EventType, str]] = ..., timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., item_id: _Optional[str] = ..., query: _Optional[str] = ...) -> None: ...

class UserEvent(_message.Message):
    __slots__ = ("type", "timestamp", "user_id", "visitor_id", "session_id", "item_id", "query", "search_id", "position", "price", "quantity")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    SEARCH_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    type: EventType
    timestamp: _timestamp_pb2.Timestamp
    user_id: str
    visitor_id: str
    session_id: str
    item_id: str
    query: str
    search_id: str
    position: int
    price: float
    quantity: int
    def __init__(self, type: _Optional[_Union[EventType, str]] = ..., timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., user_id: _Optional[str] = ..., visitor_id: _Optional[str] = ..., session_id: _Optional[str] = ..., item_id: _Optional[str] = ..., query: _Optional[str] = ..., search_id: _Optional[str] = ..., position: _Optional[int] = ..., price: _Optional[float] = ..., quantity: _Optional[int] = ...) -> None: ...

class UserContext(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[HistoryEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[HistoryEvent, _Mapping]]] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("query", "user_id", "user_context", "visitor_id", "page_size", "page_token", "offset", "filter", "order_by", "facet_specs", "boost_specs", "diversity", "params", "read_mask", "labels", "session_id", "spell_correction", "similar_to_item_id", "page_category", "pins", "excluded_item_ids", "min_purchase_probability", "explain")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    QUERY_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    USER_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    FACET_SPECS_FIELD_NUMBER: _ClassVar[int]
    BOOST_SPECS_FIELD_NUMBER: _ClassVar[int]
    DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    READ_MASK_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SPELL_CORRECTION_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_TO_ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_CATEGORY_FIELD_NUMBER: _ClassVar[int]
    PINS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    MIN_PURCHASE_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    query: str
    user_id: str
    user_context: UserContext
    visitor_id: str
    page_size: int
    page_token: str
    offset: int
    filter: str
    order_by: str
    facet_specs: _containers.RepeatedCompositeFieldContainer[FacetSpec]
    boost_specs: _containers.RepeatedCompositeFieldContainer[BoostSpec]
    diversity: DiversitySpec
    params: SearchParams
    read_mask: _field_mask_pb2.FieldMask
    labels: _containers.ScalarMap[str, str]
    session_id: str
    spell_correction: SpellCorrectionMode
    similar_to_item_id: str
    page_category: _containers.RepeatedScalarFieldContainer[str]
    pins: _containers.RepeatedCompositeFieldContainer[Pin]
    excluded_item_ids: _containers.RepeatedScalarFieldContainer[str]
    min_purchase_probability: float
    explain: bool
    def __init__(self, query: _Optional[str] = ..., user_id: _Optional[str] = ..., user_context: _Optional[_Union[UserContext, _Mapping]] = ..., visitor_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., offset: _Optional[int] = ..., filter: _Optional[str] = ..., order_by: _Optional[str] = ..., facet_specs: _Optional[_Iterable[_Union[FacetSpec, _Mapping]]] = ..., boost_specs: _Optional[_Iterable[_Union[BoostSpec, _Mapping]]] = ..., diversity: _Optional[_Union[DiversitySpec, _Mapping]] = ..., params: _Optional[_Union[SearchParams, _Mapping]] = ..., read_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., session_id: _Optional[str] = ..., spell_correction: _Optional[_Union[SpellCorrectionMode, str]] = ..., similar_to_item_id: _Optional[str] = ..., page_category: _Optional[_Iterable[str]] = ..., pins: _Optional[_Iterable[_Union[Pin, _Mapping]]] = ..., excluded_item_ids: _Optional[_Iterable[str]] = ..., min_purchase_probability: _Optional[float] = ..., explain: _Optional[bool] = ...) -> None: ...

class SearchParams(_message.Message):
    __slots__ = ("retrieval_depth", "rerank_depth", "exact")
    RETRIEVAL_DEPTH_FIELD_NUMBER: _ClassVar[int]
    RERANK_DEPTH_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    retrieval_depth: int
    rerank_depth: int
    exact: bool
    def __init__(self, retrieval_depth: _Optional[int] = ..., rerank_depth: _Optional[int] = ..., exact: _Optional[bool] = ...) -> None: ...

class FacetSpec(_message.Message):
    __slots__ = ("field", "limit", "interval_bounds", "excluded_filter_keys")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_BOUNDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FILTER_KEYS_FIELD_NUMBER: _ClassVar[int]
    field: str
    limit: int
    interval_bounds: _containers.RepeatedScalarFieldContainer[float]
    excluded_filter_keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, field: _Optional[str] = ..., limit: _Optional[int] = ..., interval_bounds: _Optional[_Iterable[float]] = ..., excluded_filter_keys: _Optional[_Iterable[str]] = ...) -> None: ...

class BoostSpec(_message.Message):
    __slots__ = ("condition", "boost")
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    BOOST_FIELD_NUMBER: _ClassVar[int]
    condition: str
    boost: float
    def __init__(self, condition: _Optional[str] = ..., boost: _Optional[float] = ...) -> None: ...

class DiversitySpec(_message.Message):
    __slots__ = ("strength", "max_per_brand", "max_per_category")
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_PER_BRAND_FIELD_NUMBER: _ClassVar[int]
    MAX_PER_CATEGORY_FIELD_NUMBER: _ClassVar[int]
    strength: float
    max_per_brand: int
    max_per_category: int
    def __init__(self, strength: _Optional[float] = ..., max_per_brand: _Optional[int] = ..., max_per_category: _Optional[int] = ...) -> None: ...

class Pin(_message.Message):
    __slots__ = ("item_id", "rank")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    rank: int
    def __init__(self, item_id: _Optional[str] = ..., rank: _Optional[int] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("results", "facets", "total_size", "next_page_token", "corrected_query", "search_id", "index_version", "model_versions", "degraded", "stage_timings", "no_match")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    FACETS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_QUERY_FIELD_NUMBER: _ClassVar[int]
    SEARCH_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    STAGE_TIMINGS_FIELD_NUMBER: _ClassVar[int]
    NO_MATCH_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SearchResult]
    facets: _containers.RepeatedCompositeFieldContainer[Facet]
    total_size: int
    next_page_token: str
    corrected_query: str
    search_id: str
    index_version: str
    model_versions: ModelVersions
    degraded: _containers.RepeatedCompositeFieldContainer[Degradation]
    stage_timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    no_match: bool
    def __init__(self, results: _Optional[_Iterable[_Union[SearchResult, _Mapping]]] = ..., facets: _Optional[_Iterable[_Union[Facet, _Mapping]]] = ..., total_size: _Optional[int] = ..., next_page_token: _Optional[str] = ..., corrected_query: _Optional[str] = ..., search_id: _Optional[str] = ..., index_version: _Optional[str] = ..., model_versions: _Optional[_Union[ModelVersions, _Mapping]] = ..., degraded: _Optional[_Iterable[_Union[Degradation, _Mapping]]] = ..., stage_timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., no_match: _Optional[bool] = ...) -> None: ...

class SearchResult(_message.Message):
    __slots__ = ("item", "rank", "score", "retrieval_score", "lexical_score", "rerank_score", "purchase_probability", "explanation", "dense_score", "click_probability", "cart_probability", "behaviour_score")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RETRIEVAL_SCORE_FIELD_NUMBER: _ClassVar[int]
    LEXICAL_SCORE_FIELD_NUMBER: _ClassVar[int]
    RERANK_SCORE_FIELD_NUMBER: _ClassVar[int]
    PURCHASE_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    DENSE_SCORE_FIELD_NUMBER: _ClassVar[int]
    CLICK_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    CART_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    BEHAVIOUR_SCORE_FIELD_NUMBER: _ClassVar[int]
    item: Item
    rank: int
    score: float
    retrieval_score: float
    lexical_score: float
    rerank_score: float
    purchase_probability: float
    explanation: Explanation
    dense_score: float
    click_probability: float
    cart_probability: float
    behaviour_score: float
    def __init__(self, item: _Optional[_Union[Item, _Mapping]] = ..., rank: _Optional[int] = ..., score: _Optional[float] = ..., retrieval_score: _Optional[float] = ..., lexical_score: _Optional[float] = ..., rerank_score: _Optional[float] = ..., purchase_probability: _Optional[float] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ..., dense_score: _Optional[float] = ..., click_probability: _Optional[float] = ..., cart_probability: _Optional[float] = ..., behaviour_score: _Optional[float] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("contributions",)
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    def __init__(self, contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("name", "value", "description")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    description: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., description: _Optional[str] = ...) -> None: ...

class Facet(_message.Message):
    __slots__ = ("field", "values")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    field: str
    values: _containers.RepeatedCompositeFieldContainer[FacetValue]
    def __init__(self, field: _Optional[str] = ..., values: _Optional[_Iterable[_Union[FacetValue, _Mapping]]] = ...) -> None: ...

class FacetValue(_message.Message):
    __slots__ = ("value", "count", "low", "high")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    value: str
    count: int
    low: float
    high: float
    def __init__(self, value: _Optional[str] = ..., count: _Optional[int] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class ModelVersions(_message.Message):
    __slots__ = ("retriever", "reranker", "blend")
    RETRIEVER_FIELD_NUMBER: _ClassVar[int]
    RERANKER_FIELD_NUMBER: _ClassVar[int]
    BLEND_FIELD_NUMBER: _ClassVar[int]
    retriever: str
    reranker: str
    blend: str
    def __init__(self, retriever: _Optional[str] = ..., reranker: _Optional[str] = ..., blend: _Optional[str] = ...) -> None: ...

class Degradation(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: DegradationReason
    message: str
    def __init__(self, reason: _Optional[_Union[DegradationReason, str]] = ..., message: _Optional[str] = ...) -> None: ...

class StageTiming(_message.Message):
    __slots__ = ("stage", "duration_ms")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    duration_ms: float
    def __init__(self, stage: _Optional[str] = ..., duration_ms: _Optional[float] = ...) -> None: ...

class RecordEventsRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[UserEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[UserEvent, _Mapping]]] = ...) -> None: ...

class RecordEventsResponse(_message.Message):
    __slots__ = ("n_recorded", "n_already_known", "unknown_item_ids")
    N_RECORDED_FIELD_NUMBER: _ClassVar[int]
    N_ALREADY_KNOWN_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    n_recorded: int
    n_already_known: int
    unknown_item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, n_recorded: _Optional[int] = ..., n_already_known: _Optional[int] = ..., unknown_item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class SuggestRequest(_message.Message):
    __slots__ = ("query", "user_id", "visitor_id", "page_size")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    query: str
    user_id: str
    visitor_id: str
    page_size: int
    def __init__(self, query: _Optional[str] = ..., user_id: _Optional[str] = ..., visitor_id: _Optional[str] = ..., page_size: _Optional[int] = ...) -> None: ...

class SuggestResponse(_message.Message):
    __slots__ = ("suggestions",)
    SUGGESTIONS_FIELD_NUMBER: _ClassVar[int]
    suggestions: _containers.RepeatedCompositeFieldContainer[Suggestion]
    def __init__(self, suggestions: _Optional[_Iterable[_Union[Suggestion, _Mapping]]] = ...) -> None: ...

class Suggestion(_message.Message):
    __slots__ = ("query", "score")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    query: str
    score: float
    def __init__(self, query: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class BatchSearchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[SearchRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[SearchRequest, _Mapping]]] = ...) -> None: ...

class BatchSearchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchSearchResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchSearchResult, _Mapping]]] = ...) -> None: ...

class BatchSearchResult(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: SearchResponse
    error: BatchSearchError
    def __init__(self, response: _Optional[_Union[SearchResponse, _Mapping]] = ..., error: _Optional[_Union[BatchSearchError, _Mapping]] = ...) -> None: ...

class BatchSearchError(_message.Message):
    __slots__ = ("code", "message", "fields")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., fields: _Optional[_Iterable[str]] = ...) -> None: ...

class RerankRequest(_message.Message):
    __slots__ = ("query", "user_id", "user_context", "visitor_id", "item_ids")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    USER_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    query: str
    user_id: str
    user_context: UserContext
    visitor_id: str
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, query: _Optional[str] = ..., user_id: _Optional[str] = ..., user_context: _Optional[_Union[UserContext, _Mapping]] = ..., visitor_id: _Optional[str] = ..., item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RerankResponse(_message.Message):
    __slots__ = ("results", "unknown_item_ids", "index_version", "model_versions", "degraded")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RerankResult]
    unknown_item_ids: _containers.RepeatedScalarFieldContainer[str]
    index_version: str
    model_versions: ModelVersions
    degraded: _containers.RepeatedCompositeFieldContainer[Degradation]
    def __init__(self, results: _Optional[_Iterable[_Union[RerankResult, _Mapping]]] = ..., unknown_item_ids: _Optional[_Iterable[str]] = ..., index_version: _Optional[str] = ..., model_versions: _Optional[_Union[ModelVersions, _Mapping]] = ..., degraded: _Optional[_Iterable[_Union[Degradation, _Mapping]]] = ...) -> None: ...

class RerankResult(_message.Message):
    __slots__ = ("item_id", "rank", "score", "rerank_score", "click_probability", "cart_probability", "purchase_probability")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RERANK_SCORE_FIELD_NUMBER: _ClassVar[int]
    CLICK_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    CART_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    PURCHASE_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    rank: int
    score: float
    rerank_score: float
    click_probability: float
    cart_probability: float
    purchase_probability: float
    def __init__(self, item_id: _Optional[str] = ..., rank: _Optional[int] = ..., score: _Optional[float] = ..., rerank_score: _Optional[float] = ..., click_probability: _Optional[float] = ..., cart_probability: _Optional[float] = ..., purchase_probability: _Optional[float] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("texts", "role")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    role: EmbedRole
    def __init__(self, texts: _Optional[_Iterable[str]] = ..., role: _Optional[_Union[EmbedRole, str]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("embeddings", "model_versions")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedCompositeFieldContainer[Embedding]
    model_versions: ModelVersions
    def __init__(self, embeddings: _Optional[_Iterable[_Union[Embedding, _Mapping]]] = ..., model_versions: _Optional[_Union[ModelVersions, _Mapping]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class DeleteUserRequest(_message.Message):
    __slots__ = ("user_id", "visitor_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    visitor_id: str
    def __init__(self, user_id: _Optional[str] = ..., visitor_id: _Optional[str] = ...) -> None: ...

class DeleteUserResponse(_message.Message):
    __slots__ = ("n_deleted",)
    N_DELETED_FIELD_NUMBER: _ClassVar[int]
    n_deleted: int
    def __init__(self, n_deleted: _Optional[int] = ...) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("versions", "next_page_token")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[IndexVersion]
    next_page_token: str
    def __init__(self, versions: _Optional[_Iterable[_Union[IndexVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class IndexVersion(_message.Message):
    __slots__ = ("version", "state", "created_at", "n_items", "model_versions")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    N_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    version: str
    state: IndexVersionState
    created_at: _timestamp_pb2.Timestamp
    n_items: int
    model_versions: ModelVersions
    def __init__(self, version: _Optional[str] = ..., state: _Optional[_Union[IndexVersionState, str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., n_items: _Optional[int] = ..., model_versions: _Optional[_Union[ModelVersions, _Mapping]] = ...) -> None: ...

class ActivateVersionRequest(_message.Message):
    __slots__ = ("version", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: str
    reason: str
    def __init__(self, version: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ActivateVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: IndexVersion
    def __init__(self, version: _Optional[_Union[IndexVersion, _Mapping]] = ...) -> None: ...

class RollbackVersionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RollbackVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: IndexVersion
    def __init__(self, version: _Optional[_Union[IndexVersion, _Mapping]] = ...) -> None: ...

class UpsertItemsRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class UpsertItemsResponse(_message.Message):
    __slots__ = ("n_upserted",)
    N_UPSERTED_FIELD_NUMBER: _ClassVar[int]
    n_upserted: int
    def __init__(self, n_upserted: _Optional[int] = ...) -> None: ...

class DeleteItemsRequest(_message.Message):
    __slots__ = ("item_ids",)
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteItemsResponse(_message.Message):
    __slots__ = ("n_deleted", "unknown_item_ids")
    N_DELETED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    n_deleted: int
    unknown_item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, n_deleted: _Optional[int] = ..., unknown_item_ids: _Optional[_Iterable[str]] = ...) -> None: ...
