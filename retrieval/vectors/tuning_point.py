"""One measured setting of a vector index's search; light, since manifests hold them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

SETTINGS = ("ef_search", "nprobe", "refine_factor")


class TuningPoint(BaseModel):
    """What a setting finds, and how fast; None is a number that the kind of index does not heed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ef_search: int | None
    nprobe: int | None
    refine_factor: int | None
    recall: Annotated[float, Field(ge=0, le=1)]  # ann_recall@100
    ms_per_query: Annotated[float, Field(ge=0)]  # median of single searches on one thread, 100 items each

    def text(self) -> str:
        """Name the setting, such as ``nprobe = 16, refine_factor = 4``."""
        named = [f"{name} = {value}" for name in SETTINGS if (value := getattr(self, name)) is not None]
        return ", ".join(named) or "all rows compared"
