"""The examples of docs/api.md, run: what a reader copies is answered."""

import json
import re
from pathlib import Path

import pytest
from google.protobuf import json_format

from server.pb.tandem.search.v1 import search_pb2 as pb

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
REQUESTS = re.findall(r"-d '([^']*)'[^']*?tandem\.search\.v1\.SearchService/Search\n", PAGE)
PROGRAMS = [code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "tandem.search(" in code]


def test_examples_are_found():
    assert len(REQUESTS) >= 9
    assert len(PROGRAMS) >= 4


@pytest.mark.parametrize("request_text", REQUESTS)
def test_a_request_of_the_page_is_answered(stub, request_text):
    response = stub.Search(json_format.ParseDict(json.loads(request_text), pb.SearchRequest()))
    assert response.search_id
    assert not response.degraded
    assert response.results or response.no_match


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_the_page_runs(address, program):
    exec(program.replace("127.0.0.1:50051", address), {})
