"""A connection to a server, and its errors as the types that it raised."""

from types import TracebackType
from typing import Any, NoReturn, Self

import grpc

from corpus.errors import (
    AccessDenied,
    BadPageToken,
    DeadlineExceeded,
    InputError,
    NotImplementedField,
    Overloaded,
    TandemError,
    UnknownItem,
    UpdatesRefused,
    VersionNotFound,
)
from server.access.credentials import PLAIN, Credentials
from server.api.status import violations_of

# what an error is about a field of the request, and what without one
OF_A_FIELD: dict[grpc.StatusCode, type[InputError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InputError,
    grpc.StatusCode.UNIMPLEMENTED: NotImplementedField,
    grpc.StatusCode.NOT_FOUND: UnknownItem,
}
OF_A_CALL: dict[grpc.StatusCode, type[TandemError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InputError,
    grpc.StatusCode.UNIMPLEMENTED: NotImplementedField,
    grpc.StatusCode.NOT_FOUND: VersionNotFound,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.FAILED_PRECONDITION: UpdatesRefused,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.UNAVAILABLE: TandemError,
}


class Connection:
    """One connection to a server. Safe to share between threads.

    Errors of the server come back as the same types that it raised: ``InputError`` with the field at fault,
    ``DeadlineExceeded``, ``Overloaded``, …
    """

    def __init__(self, address: str, *, timeout_s: float, credentials: Credentials = PLAIN) -> None:
        """Connect when first needed.

        Args:
            address: Such as ``127.0.0.1:50051``.
            timeout_s: Deadline of each call, unless the call names its own.
            credentials: Key and certificates.
        Raises:
            ConfigError: If a file that the credentials name cannot be read.
        """
        self._address = address
        self._timeout_s = timeout_s
        self._metadata = credentials.metadata
        self._channel = credentials.channel(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:  # noqa: ANN401 - generated types
        try:
            timeout_s = self._timeout_s if timeout_s is None else timeout_s
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as exc:
            self._raise(exc)

    def _raise(self, error: Any) -> NoReturn:  # noqa: ANN401 - grpc hides the type that has code and details
        code, message = error.code(), error.details() or ""
        violations = violations_of(error)
        field = violations[0].field if violations else None
        if field is not None and code in OF_A_FIELD:
            of_field = BadPageToken if field == "page_token" else OF_A_FIELD[code]
            raise of_field(message, field=field) from error
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            message = f"no answer from {self._address} in time: {message}"
        elif code is grpc.StatusCode.UNAVAILABLE:
            message = f"expected a server at {self._address}, got: {message}; start one with `tandem serve`"
        elif code not in OF_A_CALL:
            message = f"the server at {self._address} failed ({code.name}): {message}"
        raise OF_A_CALL.get(code, TandemError)(message) from error
