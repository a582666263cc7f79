"""The one error tree of Tandem.

    TandemError
      ConfigError           tandem.toml, --set or the environment is wrong
      InputError            what a caller or a data file brought is wrong
        EmptyQuery
        BadFilter
        BadPageToken
        BadRow
        BadSource           a data file is missing, unreadable or lacks columns
        DimensionMismatch
        UnknownItem
        TooLittleData       there are fewer searches than anything could be learned from
        NotImplementedField a field of the public API that this version does not serve yet
      ArtefactError         a file that Tandem itself wrote is missing, broken or does not fit
        BundleCorrupt
        ModelIndexMismatch
        VersionNotFound
        GateRefused         a bundle is not published because shoppers would lose
      AccessDenied          the server does not know the caller, or does not let it do this
      DeviceUnavailable
      Overloaded
      UpdatesRefused        the server takes no live updates in the state that it is in
      ActivationRefused     a running server does not go over to another bundle
      DeadlineExceeded

Every message says what was expected, what was got and the remedy. Foreign exceptions are wrapped with
``raise ... from exc`` at the faiss, transformers, tantivy, openvino and grpc boundaries.
"""


class TandemError(Exception):
    """Base of every error that Tandem raises on purpose."""


class ConfigError(TandemError):
    """The configuration is missing, malformed or names something impossible."""


class InputError(TandemError):
    """A caller or a data file brought something that cannot be used.

    Args:
        message: What was expected, what was got, and the remedy.
        field: The request or data field at fault, in the public API's spelling, where there is one.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class EmptyQuery(InputError):
    """The query holds no visible character."""


class TooLittleData(InputError):
    """There are fewer searches than a model could learn from without learning noise."""


class BadFilter(InputError):
    """A filter or ordering expression cannot be parsed or names an unknown field."""


class BadPageToken(InputError):
    """A page token is malformed, expired or belongs to another request."""


class BadRow(InputError):
    """One row of a data file breaks the schema."""


class BadSource(InputError):
    """A data file is missing, unreadable or lacks a required column."""


class DimensionMismatch(InputError):
    """Embeddings of another width than the index's were given."""


class UnknownItem(InputError):
    """An item id is not in the catalogue."""


class NotImplementedField(InputError):
    """A field of the public API is set that this version does not serve."""


class ArtefactError(TandemError):
    """A file that Tandem wrote is missing, broken or does not fit its neighbours."""


class BundleCorrupt(ArtefactError):
    """A bundle's manifest or one of its files does not verify."""


class ModelIndexMismatch(ArtefactError):
    """A model and an index were built from different encoders."""


class VersionNotFound(ArtefactError):
    """The requested version of a model or bundle does not exist."""


class GateRefused(ArtefactError):
    """The release gate found that shoppers would lose by a bundle, or could not be asked about it."""


class AccessDenied(TandemError):
    """The server does not know the caller's key, or the key is not good for this."""


class DeviceUnavailable(TandemError):
    """The configuration asks for a device or an engine that this machine lacks."""


class Overloaded(TandemError):
    """The server's queues are full; the caller should retry later."""


class UpdatesRefused(TandemError):
    """The server takes no live updates in the state that it is in; the message says what ends it."""


class ActivationRefused(TandemError):
    """A running server does not go over to another bundle; the message says why, and what is served."""


class DeadlineExceeded(TandemError):
    """The caller's time budget ended before an answer could be made."""
