"""Who may call: API keys, and what each is good for. Before a message is read, and without a word on what was wrong."""

from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, NoReturn

import grpc

from server.api_keys import ApiKeys, Scope
from server.interceptors import PackageInterceptor, with_method

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


class Guard(PackageInterceptor):
    """Lets callers with a key in. Health and reflection are of other packages, and open to everybody."""

    def __init__(self, package: str, keys: ApiKeys) -> None:
        """Guard the methods of a package.

        Args:
            package: Such as ``tandem.search.v1``.
            keys: Those that are accepted.
        """
        super().__init__(package)
        self._keys = keys

    def wrap(self, handler: Any, method: str, metadata: tuple[tuple[str, str | bytes], ...]) -> Any:  # noqa: ANN401
        """Let the call through, or answer it with a refusal."""
        presented = bearer_of(metadata)
        key = self._keys.find(presented, now=datetime.now(UTC)) if presented is not None else None
        if key is None:
            return refusal(grpc.StatusCode.UNAUTHENTICATED, UNAUTHENTICATED)
        scope = SCOPES.get(method, Scope.ADMIN)
        if scope not in key.scopes:
            return refusal(grpc.StatusCode.PERMISSION_DENIED, f"expected an API key with the scope {scope.value}")

        async def let_in(request: Any, context: Any) -> Any:  # noqa: ANN401 - any message, a type private to grpc
            _KEY_NAME.set(key.name)  # each call has a task of its own, and with it a context
            return await handler.unary_unary(request, context)

        return with_method(handler, let_in)


def key_name_of() -> str | None:
    """Return the name of the key that the present call was let in by; None where no keys are asked for."""
    return _KEY_NAME.get()


def bearer_of(metadata: Sequence[tuple[str, str | bytes]]) -> str | None:
    """Return the key that a call presents; None if there is none, or there are several."""
    values = [value for key, value in metadata if key == AUTHORIZATION]
    if len(values) != 1 or not isinstance(values[0], str) or not values[0].lower().startswith(BEARER):
        return None
    return values[0][len(BEARER) :]


def refusal(code: grpc.StatusCode, message: str) -> Any:  # noqa: ANN401 - grpc's handler types are private
    """Return a method that refuses, whatever it is sent."""

    async def refuse(_request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        await context.abort(code, message)

    return grpc.unary_unary_rpc_method_handler(refuse)
