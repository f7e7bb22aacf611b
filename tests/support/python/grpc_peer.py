"""A gRPC server and client for the tests, on `grpcio`, with bytes for messages.

  grpc_peer.py server [PORT]              prints its port
  grpc_peer.py client ADDRESS             runs every scenario against ADDRESS (HOST:PORT); the first that fails ends it
  grpc_peer.py call ADDRESS TIMEOUT       one unary call; prints STATUS and details
"""

import sys
import threading
import time
from concurrent import futures

import grpc

MIB = 1024 * 1024
SIZES = [("grpc.max_receive_message_length", 16 * MIB), ("grpc.max_send_message_length", 16 * MIB)]


class Echo(grpc.GenericRpcHandler):
    """/test.Echo/…: what each method does stands in its name."""

    def service(self, details):
        methods = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Slow": grpc.unary_unary_rpc_method_handler(self.slow),
            "Fails": grpc.unary_unary_rpc_method_handler(self.fails),
            "ServerStream": grpc.unary_stream_rpc_method_handler(self.server_stream),
            "FailsLate": grpc.unary_stream_rpc_method_handler(self.fails_late),
            "ClientStream": grpc.stream_unary_rpc_method_handler(self.client_stream),
            "Bidi": grpc.stream_stream_rpc_method_handler(self.bidi),
        }
        return methods.get(details.method.removeprefix("/test.Echo/"))

    @staticmethod
    def unary(request, context):
        sent = dict(context.invocation_metadata())
        context.send_initial_metadata([("x-initial", sent.get("x-asked", ""))])
        context.set_trailing_metadata([("x-trailing", "t"), ("x-raw-bin", b"\0\xff")])
        return request

    @staticmethod
    def slow(request, context):
        # The deadline that arrives is the caller's, shorter by what the way took.
        left = context.time_remaining()
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(10)
        return f"{left}".encode()

    @staticmethod
    def fails(request, context):
        context.set_trailing_metadata([("x-why", "asked")])
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100 % größer")

    @staticmethod
    def server_stream(request, context):
        for count in range(int(request)):
            yield b"%d" % count

    @staticmethod
    def fails_late(request, context):
        yield b"first"
        context.abort(grpc.StatusCode.DATA_LOSS, "half way")

    @staticmethod
    def client_stream(requests, context):
        return b",".join(requests)

    @staticmethod
    def bidi(requests, context):
        for request in requests:
            yield b"re " + request


def server(port="0"):
    pool = futures.ThreadPoolExecutor(max_workers=16)
    running = grpc.server(pool, handlers=[Echo()], options=SIZES)
    bound = running.add_insecure_port(f"127.0.0.1:{port}")
    running.start()
    print(bound, flush=True)
    running.wait_for_termination()


def unary(channel):
    call = channel.unary_unary("/test.Echo/Unary")
    answer, state = call.with_call(b"hello", timeout=10, metadata=[("x-asked", "a")])
    assert answer == b"hello"
    assert ("x-initial", "a") in [tuple(pair) for pair in state.initial_metadata()]
    trailing = [tuple(pair) for pair in state.trailing_metadata()]
    assert ("x-trailing", "t") in trailing and ("x-raw-bin", b"\0\xff") in trailing, trailing


def empty(channel):
    assert channel.unary_unary("/test.Echo/Unary")(b"", timeout=10) == b""


def large(channel):
    message = b"z" * (8 * MIB)
    assert channel.unary_unary("/test.Echo/Unary")(message, timeout=20) == message


def server_stream(channel):
    got = list(channel.unary_stream("/test.Echo/ServerStream")(b"100", timeout=10))
    assert got == [b"%d" % count for count in range(100)], got


def client_stream(channel):
    parts = [b"%d" % count for count in range(100)]
    assert channel.stream_unary("/test.Echo/ClientStream")(iter(parts), timeout=10) == b",".join(parts)


def bidi(channel):
    """Each message is sent only after the one before was answered: nothing is held back."""
    turn = threading.Semaphore(1)

    def asked():
        for count in range(20):
            assert turn.acquire(timeout=10)
            yield b"%d" % count

    count = 0
    for answer in channel.stream_stream("/test.Echo/Bidi")(asked(), timeout=20):
        assert answer == b"re %d" % count
        count += 1
        turn.release()
    assert count == 20


def error_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it did not fail")


def trailers_only(channel):
    error = error_of(lambda: channel.unary_unary("/test.Echo/Fails")(b"", timeout=10))
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
    assert error.details() == "no such thing: 100 % größer", error.details()
    assert ("x-why", "asked") in [tuple(pair) for pair in error.trailing_metadata()]


def fails_late(channel):
    stream = channel.unary_stream("/test.Echo/FailsLate")(b"", timeout=10)
    assert next(stream) == b"first"
    error = error_of(lambda: next(stream))
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "half way"), error


def unknown(channel):
    error = error_of(lambda: channel.unary_unary("/test.Echo/Nothing")(b"", timeout=10))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def deadline(channel):
    began = time.monotonic()
    error = error_of(lambda: channel.unary_unary("/test.Echo/Slow")(b"", timeout=0.5))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert time.monotonic() - began < 5


def cancelled(channel):
    stream = channel.stream_stream("/test.Echo/Bidi")(iter([b"x"]), timeout=10)
    assert next(stream) == b"re x"
    stream.cancel()
    assert channel.unary_unary("/test.Echo/Unary")(b"after", timeout=10) == b"after"


def client(address):
    with grpc.insecure_channel(address, options=SIZES) as channel:
        for scenario in [
            unary, empty, large, server_stream, client_stream, bidi, trailers_only, fails_late, unknown, deadline, cancelled,
        ]:
            scenario(channel)
            print("ok", scenario.__name__, flush=True)


def call(address, timeout):
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/test.Echo/Unary")(b"x", timeout=float(timeout))
            print("OK")
        except grpc.RpcError as error:
            print(error.code().name, error.details())


if __name__ == "__main__":
    {"server": server, "client": client, "call": call}[sys.argv[1]](*sys.argv[2:])
