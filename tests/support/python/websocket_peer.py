"""A WebSocket server and client for the tests, on the `websockets` package.

  websocket_peer.py server            prints its port, then one line for each connection's end: PATH CODE REASON
  websocket_peer.py client ADDRESS    runs every scenario against ADDRESS (HOST:PORT); the first that fails ends it
  websocket_peer.py hold ADDRESS      opens, prints `open`, then what ends it: CODE REASON
"""

import asyncio
import http
import json
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

MIB = 1024 * 1024


async def handler(connection):
    path = connection.request.path
    try:
        await answer(connection, path)
    except ConnectionClosed:
        pass
    await connection.wait_closed()
    print(path, connection.close_code, connection.close_reason, flush=True)


async def answer(connection, path):
    if path.startswith("/close/"):
        await connection.close(int(path.rsplit("/", 1)[1]), "as asked")
    elif path == "/ping":
        await (await connection.ping(b"are you there"))
        await connection.send("there")
    elif path == "/headers":
        await connection.send(json.dumps(list(connection.request.headers.raw_items())))
    elif path == "/push":
        for count in range(3):
            await connection.send(f"event {count}")
            await connection.recv()
    else:
        async for message in connection:
            await connection.send(message)


def refuse(connection, request):
    if request.path == "/refuse":
        return connection.respond(http.HTTPStatus.FORBIDDEN, "no\n")
    return None


def choose(connection, offered):
    return "chat" if "chat" in offered else None


async def server():
    options = {"max_size": 4 * MIB, "select_subprotocol": choose, "process_request": refuse}
    async with serve(handler, "127.0.0.1", 0, **options) as listening:
        print(listening.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


async def messages(url, compression="deflate"):
    options = {"subprotocols": ["other", "chat"], "max_size": 4 * MIB, "compression": compression}
    async with connect(url + "/echo", **options) as ws:
        assert ws.subprotocol == "chat", ws.subprotocol
        for message in ["text", b"\0binary", "x" * MIB, b"y" * MIB, ""]:
            await ws.send(message)
            assert await ws.recv() == message
        await ws.send(["in ", "three ", "fragments"])
        assert await ws.recv() == "in three fragments"
        await (await ws.ping(b"hello"))


async def uncompressed(url):
    await messages(url, compression=None)


async def many_at_once(url):
    async def one(number):
        async with connect(url + "/echo") as ws:
            for turn in range(20):
                await ws.send(f"{number} {turn}")
                assert await ws.recv() == f"{number} {turn}"

    await asyncio.gather(*(one(number) for number in range(30)))


async def server_pings(url):
    async with connect(url + "/ping") as ws:
        assert await ws.recv() == "there"


async def server_closes(url):
    async with connect(url + "/close/4001") as ws:
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (4001, "as asked"), (ws.close_code, ws.close_reason)


async def client_closes(url):
    async with connect(url + "/echo/leaves") as ws:
        await ws.close(4002, "enough")
        assert ws.close_code == 4002, ws.close_code


async def client_aborts(url):
    ws = await connect(url + "/echo/aborts")
    await ws.send("x")
    await ws.recv()
    ws.transport.abort()


async def pushed(url):
    async with connect(url + "/push") as ws:
        for count in range(3):
            # The server sends the next only after this one was answered: nothing is held back.
            assert await ws.recv() == f"event {count}"
            await ws.send("seen")


async def told(url):
    async with connect(url + "/headers") as ws:
        names = [name.lower() for name, _ in json.loads(await ws.recv())]
        for name in ["host", "upgrade", "connection", "sec-websocket-key", "x-forwarded-for", "x-request-id"]:
            assert names.count(name) == 1, (name, names)


async def refused(url):
    try:
        await connect(url + "/refuse")
    except InvalidStatus as error:
        assert error.response.status_code == 403, error
        assert error.response.body == b"no\n", error.response.body
    else:
        raise AssertionError("/refuse was not refused")


async def client(address):
    url = f"ws://{address}"
    scenarios = [messages, uncompressed, many_at_once, server_pings, server_closes, client_closes, client_aborts]
    for scenario in [*scenarios, pushed, told, refused]:
        await asyncio.wait_for(scenario(url), 20)
        print("ok", scenario.__name__, flush=True)


async def hold(address):
    async with connect(f"ws://{address}/echo/held", ping_interval=None) as ws:
        await ws.send("x")
        await ws.recv()
        print("open", flush=True)
        while True:
            try:
                await ws.recv()
            except ConnectionClosed:
                print(ws.close_code, ws.close_reason, flush=True)
                return


if __name__ == "__main__":
    asyncio.run({"server": server, "client": client, "hold": hold}[sys.argv[1]](*sys.argv[2:]))
