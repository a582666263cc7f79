import subprocess
import sys

import pytest

from rerank.lightgbm_runtime import UNUSED, not_found

SERVING = """
import sys
import rerank.blend
loaded = [name for name in ("sklearn", "pandas", "pyarrow") if name in sys.modules]
assert not loaded, loaded
assert rerank.blend.lightgbm.basic.Booster
import sklearn  # who wants it finds it afterwards
"""


def test_opening_a_blend_loads_none_of_the_libraries_that_serving_does_not_call():
    done = subprocess.run([sys.executable, "-c", SERVING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_hidden_library_is_found_again_and_a_loaded_one_stays():
    import json

    assert "sklearn" in UNUSED
    sys.modules.pop("wave", None)
    with not_found(("json", "wave")):
        assert sys.modules["json"] is json
        with pytest.raises(ImportError):
            import wave
    import wave

    assert wave.open
