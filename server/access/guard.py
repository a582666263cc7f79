"""Who may call: API keys, and what each is good for. Before a message is read, and without a word on what was wrong."""

from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import grpc

from server.access.api_keys import ApiKeys, Scope
from server.calls.layers import Context, Method

UNAUTHENTICATED = "expected a valid API key as metadata `authorization: Bearer KEY`; `tandem keys add` makes one"
AUTHORIZATION = "authorization"
BEARER = "bearer "

_KEY_NAME: ContextVar[str | None] = ContextVar("key_name", default=None)  # of the call that is being answered

# any method that is not named here is for operators
SCOPES = {
    "SearchService/Search": Scope.SEARCH,
    "SearchService/Suggest": Scope.SEARCH,
    "SearchService/BatchSearch": Scope.SEARCH,
    "SearchService/Rerank": Scope.SEARCH,
    "SearchService/Embed": Scope.SEARCH,
    "SearchService/RecordEvents": Scope.EVENTS,
}


class Guard:
    """Lets callers with a key in. Health and reflection are other services, and open to everybody."""

    def __init__(self, keys: ApiKeys) -> None:
        """Guard nothing yet.

        Args:
            keys: Those that are accepted.
        """
        self._keys = keys

    def wrap(self, method: Method, rpc: str) -> Method:
        """Let a call through, or refuse it, whatever it says."""
        scope = SCOPES.get(rpc.replace(".", "/"), Scope.ADMIN)

        async def guarded(data: bytes, context: Context) -> Any:  # noqa: ANN401 - any message
            presented = bearer_of(context.invocation_metadata() or ())
            key = self._keys.find(presented, now=datetime.now(UTC)) if presented is not None else None
            if key is None:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, UNAUTHENTICATED)
            if scope not in key.scopes:
                denied = f"expected an API key with the scope {scope.value}"
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, denied)
            _KEY_NAME.set(key.name)  # each call has a task of its own, and with it a context
            return await method(data, context)

        return guarded


def key_name_of() -> str | None:
    """Return the name of the key that the present call was let in by; None where no keys are asked for."""
    return _KEY_NAME.get()


def bearer_of(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """Return the key that a call presents; None if there is none, or there are several."""
    values = [value for key, value in metadata if key == AUTHORIZATION]
    if len(values) != 1 or not isinstance(values[0], str) or not values[0].lower().startswith(BEARER):
        return None
    return values[0][len(BEARER) :]
