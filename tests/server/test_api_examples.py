"""The examples of docs/api.md, run against a real server."""

import re
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format

from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from tests.server.conftest import copy_bundle

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
CALL = re.compile(r"-d '(\{[^']*\})' \\\s+http://127\.0\.0\.1:5005[12]/tandem\.search\.v1\.(\w+)/(\w+)")
PROGRAM = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def server(store, serving, tmp_path_factory):
    import shutil

    from corpus.workspace import Workspace

    own = Workspace(tmp_path_factory.mktemp("examples") / "store")
    shutil.copytree(store.bundles, own.bundles)
    copy_bundle(own, "v1", "v2")
    with serving(own, history_ttl_days=36_500) as (server, _):
        yield server


def test_every_call_of_the_contract_has_an_example_but_listing():
    shown = {(service, method) for _, service, method in CALL.findall(PAGE)}
    contract = {(s.name, m.name) for s in pb.DESCRIPTOR.services_by_name.values() for m in s.methods}
    assert contract - shown == {("IndexAdminService", "ListVersions")}


@pytest.mark.parametrize(("text", "service", "method"), CALL.findall(PAGE))
def test_a_call_of_the_page_is_answered(server, text, service, method):
    call = pb.DESCRIPTOR.services_by_name[service].methods_by_name[method]
    request = json_format.Parse(text, getattr(pb, call.input_type.name)())
    address = server.address if service == "SearchService" else server.admin_address
    with grpc.insecure_channel(address) as channel:
        stub = getattr(search_pb2_grpc, f"{service}Stub")(channel)
        answer = getattr(stub, method)(request, timeout=60)
    assert answer.DESCRIPTOR.name == call.output_type.name


@pytest.mark.parametrize("program", PROGRAM.findall(PAGE))
def test_a_program_of_the_page_runs(server, program, capsys):
    compiled = program.replace("127.0.0.1:50051", server.address).replace("127.0.0.1:50052", server.admin_address)
    assert compiled != program
    exec(compiled, {})
