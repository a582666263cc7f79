"""Filters and facets of a request, validated."""

from collections.abc import Callable, Sequence

from corpus.errors import BadFilter
from retrieval.filtering.facets import FacetSpec
from retrieval.filtering.filter_language import parse_filter
from retrieval.filtering.filters import Filter, FilterLimits, check_field
from server.config import ServerConfig
from server.pb.tandem.search.v1 import search_pb2

MAX_EXCLUDED_KEYS = 100

AddFault = Callable[[str, str], None]  # of a field, in words


def read_filter(text: str, config: ServerConfig, add_fault: AddFault, *, field: str = "filter") -> Filter | None:
    """Read a filter; an empty one is none.

    Args:
        text: As received.
        config: How large it may be.
        add_fault: Told what is wrong with it.
        field: Where it stands.
    """
    if not text.strip():
        return None
    limits = FilterLimits(
        characters=config.max_filter_characters, terms=config.max_filter_terms, depth=config.max_filter_depth
    )
    try:
        return parse_filter(text, limits)
    except BadFilter as exc:
        add_fault(field, str(exc))
        return None


def read_facets(
    specs: Sequence[search_pb2.FacetSpec], config: ServerConfig, add_fault: AddFault
) -> tuple[FacetSpec, ...]:
    """Read which facets to count.

    Args:
        specs: As received.
        config: How many facets and values there may be.
        add_fault: Told what is wrong with each.
    """
    if len(specs) > config.max_facets:
        add_fault("facet_specs", f"expected at most {config.max_facets} facets, got {len(specs)}; ask for fewer")
        return ()
    read = [_facet(spec, f"facet_specs[{number}].", config, add_fault) for number, spec in enumerate(specs)]
    return tuple(spec for spec in read if spec is not None)


def _facet(spec: search_pb2.FacetSpec, prefix: str, config: ServerConfig, add_fault: AddFault) -> FacetSpec | None:
    limit = spec.limit if spec.HasField("limit") else config.default_facet_values
    if not 1 <= limit <= config.max_facet_values:
        add_fault(prefix + "limit", f"expected 1 to {config.max_facet_values}, got {limit}")
    if len(spec.interval_bounds) >= config.max_facet_values:
        most = config.max_facet_values - 1
        add_fault(prefix + "interval_bounds", f"expected at most {most} bounds, got {len(spec.interval_bounds)}")
        return None
    if len(spec.excluded_filter_keys) > MAX_EXCLUDED_KEYS:
        add_fault(prefix + "excluded_filter_keys", f"expected at most {MAX_EXCLUDED_KEYS} fields, got more")
        return None
    for key in spec.excluded_filter_keys:
        try:
            check_field(key)
        except BadFilter as exc:
            add_fault(prefix + "excluded_filter_keys", str(exc))
            return None
    try:
        return FacetSpec(
            field=spec.field,
            limit=limit,
            interval_bounds=tuple(spec.interval_bounds),
            excluded_filter_keys=tuple(spec.excluded_filter_keys),
        )
    except BadFilter as exc:
        add_fault(prefix + (exc.field or "field"), str(exc))
        return None
