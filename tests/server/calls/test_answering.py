import itertools

import grpc
import pytest

from corpus.errors import TandemError
from server.calls.answering import CODES, refusing_the_rest
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from tests.server.callers import failure

QUERY = "red acme shoe"


def test_every_error_of_the_tree_has_a_code():
    def tree(kind):
        return [kind, *itertools.chain.from_iterable(tree(child) for child in kind.__subclasses__())]

    for kind in tree(TandemError):
        assert any(issubclass(kind, row) for row, _ in CODES)
    # a row below one that covers it would never be reached
    for number, (kind, _) in enumerate(CODES):
        assert not any(issubclass(kind, above) for above, _ in CODES[:number])


def test_a_call_that_a_service_does_not_define_is_unimplemented_and_named(loop):
    @refusing_the_rest
    class SearchService(search_pb2_grpc.SearchServiceServicer):
        async def Search(self, request, context):
            return pb.SearchResponse(total_size=7)

    async def answers() -> tuple[int, grpc.aio.AioRpcError]:
        server = grpc.aio.server()
        search_pb2_grpc.add_SearchServiceServicer_to_server(SearchService(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = search_pb2_grpc.SearchServiceStub(channel)
            answer = await stub.Search(pb.SearchRequest())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Embed(pb.EmbedRequest())
        await server.stop(None)
        return answer.total_size, caught.value

    size, error = loop.run(answers())
    assert size == 7
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == "SearchService.Embed is not served by this version"


@pytest.mark.parametrize("data", [b"\x0a\x02\xff\xfe", b"\xff\xff\xff", b"\x0a\xff\xff\xff\x7f"])
@pytest.mark.parametrize("method", ["Search", "RecordEvents"])
def test_bytes_that_are_no_message_are_an_invalid_argument(channel, method, data):
    call = channel.unary_unary(
        f"/tandem.search.v1.SearchService/{method}", request_serializer=bytes, response_deserializer=bytes
    )
    error = failure(lambda: call(data))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "UTF-8" in error.details()


def test_an_unexpected_error_shows_nothing_and_leaves_the_server_up(store, serving, tmp_path, monkeypatch, caplog):
    with serving(store, history_path=str(tmp_path / "h")) as (server, client):
        with monkeypatch.context() as patch:

            def fail(_query: str, _k: int, **_options: object) -> None:
                raise RuntimeError("secret path /etc/shadow")

            patch.setattr(server._service.pipeline.bundle.retriever, "retrieve", fail)
            with grpc.insecure_channel(server.address) as channel:
                stub = search_pb2_grpc.SearchServiceStub(channel)
                error = failure(lambda: stub.Search(pb.SearchRequest(query=QUERY), timeout=60))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in error.details()
        assert [record.message for record in caplog.records] == ["unexpected error"]
        assert len(client.search(QUERY).results) == 10
