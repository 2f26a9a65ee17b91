"""The Hub, played by a server here that counts what it sends."""

import http.server
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Iterator

import numpy as np
import pytest
from safetensors.numpy import save, save_file

import thrifty
from thrifty.errors import UserError
from thrifty.sources.opening import expand

REPOSITORY = "some/net"
COMMIT = "c0ffee"


class Hub(http.server.ThreadingHTTPServer):
    """Files by name, what was sent, and how to misbehave."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.sent = 0
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.elsewhere: str | None = None
        self.breaks = 0
        self.ignores_ranges = False
        self.lies = False
        self.status = 200
        self.gated = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that hangs up is what a broken connection looks like from here."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.server
        span = self.headers.get("range")
        path = urllib.parse.unquote(self.path)
        hub.asked.append((path, span, self.headers.get("authorization")))
        if hub.status != 200:
            return self.answer(hub.status, b"")
        if path.startswith("/api/models/"):
            if not path.startswith(f"/api/models/{REPOSITORY}/revision/"):
                return self.answer(404, b"")
            listed = {"sha": COMMIT, "siblings": [{"rfilename": n} for n in hub.files]}
            return self.answer(200, json.dumps(listed).encode())
        if hub.gated:
            return self.answer(403, b"")
        if hub.elsewhere and not path.startswith("/cdn/"):
            name = path.rpartition("/")[2]
            return self.answer(302, b"", {"Location": f"{hub.elsewhere}/cdn/{name}"})
        content = hub.files[path.rpartition("/")[2]]
        if span is None or hub.ignores_ranges:
            return self.answer(200, content)
        begin, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", span).groups())
        part = content[begin : end + 1]
        if not part:
            return self.answer(416, b"")
        told = f"bytes {begin + hub.lies}-{end}/{len(content)}"
        return self.answer(206, part, {"Content-Range": told})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        hub = self.server
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if hub.breaks and status == 206 and len(body) > 1000:
            hub.breaks -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        hub.sent += len(body) if status == 206 else 0
        self.wfile.write(body)


WEIGHTS = {
    "a.bias": np.arange(200_000, dtype=np.float32),
    "a.weight": np.random.default_rng(0).normal(0, 0.1, (300, 400)).astype(np.float32),
    "b.weight": np.ones((3, 5), np.float16),
}


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    server = Hub({"model.safetensors": save(WEIGHTS), "README.md": b"#"})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_only_the_header_and_the_weights_that_count_are_sent(hub):
    (row,) = thrifty.look(f"hf:{REPOSITORY}", counted="weights").to_rows()
    assert row["count"] == 300 * 400 + 15
    assert row["network"] == "net"
    content = hub.files["model.safetensors"]
    header = 8 + int.from_bytes(content[:8], "little")
    needed = WEIGHTS["a.weight"].nbytes + WEIGHTS["b.weight"].nbytes
    assert hub.sent == 1 + header + needed
    assert hub.sent < len(content) / 2


def test_shares_are_those_of_the_file(hub, tmp_path):
    save_file(WEIGHTS, tmp_path / "net.safetensors")
    here = thrifty.look(tmp_path / "net.safetensors").to_rows()
    there = thrifty.look(f"hf:{REPOSITORY}").to_rows()
    assert [r["under_0.1"] for r in there] == [r["under_0.1"] for r in here]
    assert [r["file_bytes"] for r in there] == [r["file_bytes"] for r in here]


def test_a_revision_is_asked_for_and_its_commit_read(hub):
    thrifty.look(f"hf:{REPOSITORY}@refs/pr/1", counted="weights")
    paths = [path for path, *_ in hub.asked]
    assert paths[0] == f"/api/models/{REPOSITORY}/revision/refs/pr/1"
    assert set(paths[1:]) == {f"/{REPOSITORY}/resolve/{COMMIT}/model.safetensors"}


def test_the_token_is_not_told_to_another_host(hub):
    other = Hub(hub.files)
    thread = threading.Thread(target=other.serve_forever, daemon=True)
    thread.start()
    hub.elsewhere = f"http://localhost:{other.server_port}"
    try:
        thrifty.look(f"hf:{REPOSITORY}", counted="weights")
    finally:
        other.shutdown()
        thread.join()
        other.server_close()
    assert {token for *_, token in hub.asked} == {"Bearer hf_secret"}
    assert {token for *_, token in other.asked} == {None}
    assert other.sent


def test_a_broken_connection_is_taken_up_where_it_broke(hub):
    hub.breaks = 2
    (row,) = thrifty.look(f"hf:{REPOSITORY}", counted="weights", under=[0.1]).to_rows()
    assert row["count"] == 300 * 400 + 15
    want = int((np.abs(WEIGHTS["a.weight"].astype(np.float64)) < 0.1).sum())
    assert row["under_0.1"] == want / row["count"]
    content = hub.files["model.safetensors"]
    assert hub.sent < len(content)


def test_a_server_that_sends_the_whole_file_is_refused(hub):
    hub.ignores_ranges = True
    with pytest.raises(UserError, match="does not answer reads of a part"):
        thrifty.look(f"hf:{REPOSITORY}")


def test_another_range_than_was_asked_for_is_refused(hub):
    hub.lies = True
    with pytest.raises(UserError, match="was asked for bytes 0 to 0 and sends"):
        thrifty.look(f"hf:{REPOSITORY}")


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "private, gated or not there"), (404, "has no revision"), (500, "try again later")],
)
def test_refusals_say_what_to_do(hub, status, said):
    hub.status = status
    with pytest.raises(UserError, match=said):
        thrifty.look(f"hf:{REPOSITORY}")


def test_a_gated_repository_is_told_as_such_though_its_list_is_open(hub):
    hub.gated = True
    with pytest.raises(UserError, match="gated or not there.*403.*HF_TOKEN, and accept its terms"):
        thrifty.look(f"hf:{REPOSITORY}")


def test_an_empty_file_is_told_as_such(hub):
    hub.files = {"model.safetensors": b""}
    with pytest.raises(UserError, match="it has 0 bytes, and a header alone takes more"):
        thrifty.look(f"hf:{REPOSITORY}")


def test_a_server_that_is_silent_is_given_up_and_not_asked_again(hub, monkeypatch):
    from huggingface_hub import constants

    from thrifty.sources import ranged

    monkeypatch.setattr(ranged, "PATIENCE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match="timed out.*give its path"):
            thrifty.look(f"hf:{REPOSITORY}")
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_another_repository_is_not_there(hub):
    with pytest.raises(UserError, match="has no revision 'main', or is not there"):
        thrifty.look("hf:some/other")


def test_pickles_are_never_fetched(hub):
    hub.files = {"pytorch_model.bin": b"x"}
    with pytest.raises(UserError, match="pickles only"):
        thrifty.look(f"hf:{REPOSITORY}")
    assert len(hub.asked) == 1


def test_a_repository_without_weights_is_told(hub):
    hub.files = {"README.md": b"x"}
    with pytest.raises(UserError, match="has no weights"):
        thrifty.look(f"hf:{REPOSITORY}")


def test_a_header_that_lies_is_refused(hub):
    content = bytearray(hub.files["model.safetensors"])
    hub.files = {"model.safetensors": bytes(content[:-1])}
    with pytest.raises(UserError, match=r"model\.safetensors"):
        thrifty.look(f"hf:{REPOSITORY}")
    hub.files = {"model.safetensors": b"\xff" * 20}
    with pytest.raises(UserError, match=r"model\.safetensors"):
        thrifty.look(f"hf:{REPOSITORY}")


def sharded(index: dict[str, str]) -> dict[str, bytes]:
    return {
        "one.safetensors": save({"a.weight": WEIGHTS["a.weight"]}),
        "two.safetensors": save({"b.weight": WEIGHTS["b.weight"]}),
        "model.safetensors.index.json": json.dumps({"weight_map": index}).encode(),
    }


def test_shards_of_an_index_are_one_network(hub):
    hub.files = sharded({"a.weight": "one.safetensors", "b.weight": "two.safetensors"})
    (row,) = thrifty.look(f"hf:{REPOSITORY}", counted="weights").to_rows()
    assert row["count"] == 300 * 400 + 15


def test_a_shard_that_the_index_does_not_name_is_not_read(hub):
    hub.files = sharded({"a.weight": "one.safetensors"})
    (row,) = thrifty.look(f"hf:{REPOSITORY}", counted="weights").to_rows()
    assert row["count"] == 120_000
    assert not any("two" in path for path, *_ in hub.asked)


@pytest.mark.parametrize(
    "index",
    [
        {"a.weight": "two.safetensors", "b.weight": "two.safetensors"},
        {"a.weight": "three.safetensors"},
        {"a.weight": "../one.safetensors"},
        {},
    ],
)
def test_an_index_that_lies_is_refused(hub, index):
    hub.files = sharded(index)
    with pytest.raises(UserError):
        thrifty.look(f"hf:{REPOSITORY}")


def test_one_file_of_several_is_named(hub):
    hub.files = {"x.safetensors": save(WEIGHTS), "y.safetensors": save(WEIGHTS)}
    with pytest.raises(UserError, match="2 safetensors files; name one"):
        thrifty.look(f"hf:{REPOSITORY}")
    assert thrifty.look(f"hf:{REPOSITORY}/y.safetensors").networks[0].label == "net/y.safetensors"
    with pytest.raises(UserError, match=r"no safetensors file 'z\.safetensors'"):
        thrifty.look(f"hf:{REPOSITORY}/z.safetensors")


def test_a_file_in_the_cache_is_not_asked_for(hub, tmp_path):
    folder = tmp_path / "cache" / "models--some--net"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    save_file(WEIGHTS, folder / "snapshots" / COMMIT / "model.safetensors")
    with expand(f"hf:{REPOSITORY}")[0].open() as source:
        assert len(source.tensors) == 3
    assert not hub.asked


def test_offline_only_the_cache_is_looked_at(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        thrifty.look(f"hf:{REPOSITORY}")
    assert not hub.asked


def test_a_server_that_is_not_there_is_told_at_once(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be read"):
        thrifty.look(f"hf:{REPOSITORY}")


@pytest.mark.parametrize("text", ["net", "a/../b", "a/b@", "http://x/y", "a/b c", ""])
def test_what_names_no_repository_is_told(text):
    with pytest.raises(UserError):
        expand(f"hf:{text}")[0].open()
