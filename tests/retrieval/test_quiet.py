import logging
import warnings
from pathlib import Path

import pytest

from retrieval.quiet import quiet_libraries


def test_load_reports_and_bars_stay_silent(tiny_bert_folder: Path, capfd: pytest.CaptureFixture[str]):
    from transformers import AutoModelForSequenceClassification

    with quiet_libraries():
        AutoModelForSequenceClassification.from_pretrained(tiny_bert_folder, num_labels=1)
    shown = capfd.readouterr()
    assert shown.out + shown.err == ""


def test_levels_bars_and_filters_are_restored():
    from transformers.utils import logging as transformers_logging

    level, bars = logging.getLogger("transformers").level, transformers_logging.is_progress_bar_enabled()
    filters = list(warnings.filters)
    with pytest.raises(ZeroDivisionError), quiet_libraries():
        assert logging.getLogger("transformers").level == logging.ERROR
        assert not transformers_logging.is_progress_bar_enabled()
        _ = 1 / 0
    assert logging.getLogger("transformers").level == level
    assert transformers_logging.is_progress_bar_enabled() == bars
    assert warnings.filters == filters
