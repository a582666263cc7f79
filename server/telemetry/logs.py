"""The server's log: one JSON object a line, on standard error, without query texts and user ids.

Messages are written by people who know this rule; the messages of unexpected exceptions are not, and may quote what
a shopper typed. Of an exception only its type and the places it came through are logged.
"""

import logging
import sys
import traceback
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger


def configure_logging(level: str, *, process: int | None = None) -> None:
    """Send every log record of the process through the JSON format.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        process: Number of this one of several serving processes, which every record then tells.
    """

    def add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if process is not None:
            event["process"] = process
        return event

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                add_process,
                anonymous_exception,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def anonymous_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and the places it came through, innermost last.

    Args:
        _logger: Unused, as structlog's protocol wants it.
        _method: Unused, as structlog's protocol wants it.
        event: What is about to be logged.
    """
    exc_info: Any = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    exception = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if isinstance(exception, BaseException):
        event["exception"] = type(exception).__qualname__
        event["traceback"] = [
            f"{frame.filename}:{frame.lineno} in {frame.name}"
            for frame in traceback.extract_tb(exception.__traceback__)
        ]
        if exception.__cause__ is not None:
            event["cause"] = type(exception.__cause__).__qualname__
    return event
