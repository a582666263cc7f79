"""Towers exported in int8: made once for each trained tower, and kept.

The ranges of an export, and with them its fingerprint, hang on the texts that it was calibrated on. Were it exported
anew for every build, the first text that changes would make every cached embedding another encoder's.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from corpus.errors import ArtefactError
from corpus.folders import replaced_folder
from retrieval.engines.encoder import Role, TextEncoder, export_encoder, open_encoder, verify_encoder
from retrieval.vectors.embeddings import NAME_CHARACTERS

logger = logging.getLogger(__name__)


def kept_folder(kept: Path, trained: TextEncoder) -> Path:
    """Return where the int8 export of a trained tower is kept, if it was made.

    Args:
        kept: Folder of such exports, of one role.
        trained: The tower in fp32.
    """
    return kept / trained.fingerprint[:NAME_CHARACTERS]


def keep_int8_export(
    kept: Path,
    model_dir: Path,
    trained: TextEncoder,
    *,
    role: Role,
    calibration_texts: Callable[[], Sequence[str]],
    max_tokens: int,
    dim: int | None,
    bulk: bool = False,
) -> TextEncoder:
    """Open a trained tower's int8 export, which the first call makes; one that was damaged since is made again.

    Args:
        kept: Folder of such exports, of this role.
        model_dir: The trained SentenceTransformer folder.
        trained: The tower in fp32.
        role: Which tower.
        calibration_texts: Gives texts like those of service, if they are needed.
        max_tokens: Texts are cut to so many tokens.
        dim: Embeddings are cut to this width; None: the model's.
        bulk: As of ``open_encoder``.
    Raises:
        ArtefactError: If the model cannot be exported.
        DeviceUnavailable: If openvino or nncf is not installed.
    """
    folder = kept_folder(kept, trained)
    try:
        verify_encoder(folder)
        return open_encoder(folder, bulk=bulk)
    except ArtefactError as exc:
        if folder.exists():
            logger.warning("ignoring a kept encoder: %s", exc)
    logger.info("exporting the %s tower in int8, calibrated on the store's own texts", role)
    with replaced_folder(folder) as fresh:
        export_encoder(
            model_dir,
            fresh,
            role=role,
            precision="int8",
            calibration_texts=calibration_texts(),
            max_tokens=max_tokens,
            dim=dim,
        )
    return open_encoder(folder, bulk=bulk)
