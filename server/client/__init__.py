"""Typed clients: of what frontends call, and of what operators may do."""

from server.access.credentials import Credentials
from server.client.admin_client import TandemAdmin
from server.client.search_client import SearchOptions, SearchResponse, TandemClient, Variety

__all__ = ["Credentials", "SearchOptions", "SearchResponse", "TandemAdmin", "TandemClient", "Variety"]
