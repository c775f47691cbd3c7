"""A file comes from the first place that has it whole, or a few lines say what was tried."""

import http.server
import threading
import time

import pytest
import torch
import torchvision

from headswap import download, params, weights
from headswap.errors import Problem
from headswap.files import sha256

BODY = b"photographs" * 1000


class Server(http.server.BaseHTTPRequestHandler):
    """Behaves as the path says: /well/f, /missing/f, /cut/f, /stall/f, /second/f."""

    def do_GET(self):
        manner = self.path.split("/")[1]
        self.server.asked.append(self.path)
        if manner == "missing":
            return self.send_error(404)
        if manner == "second" and len(self.server.asked) == 1:
            return self.send_error(503)
        if manner == "stall":
            time.sleep(2)
        self.send_response(200)
        body = self.server.body
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if manner == "cut" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 1)
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.5))
    monkeypatch.delenv("HEADSWAP_MIRROR", raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.asked, running.body = [], BODY
        running.url = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def anything(path):
    pass


def right(path):
    if path.read_bytes() != BODY:
        raise ValueError("has other bytes")


@pytest.mark.parametrize("manner", ["well", "second"])
def test_a_file_is_downloaded_at_the_second_try_if_need_be(server, tmp_path, manner):
    target = tmp_path / "folder" / "f"
    assert download.obtain(f"{server.url}/{manner}/f", target, right) == f"{server.url}/{manner}/f"
    assert target.read_bytes() == BODY
    assert len(server.asked) == (2 if manner == "second" else 1)


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("missing", "the server answered 404"),
        ("cut", "broke off before the file was whole"),
        ("stall", "no answer for"),
    ],
)
def test_a_server_that_misbehaves_is_named_and_nothing_is_left(server, tmp_path, manner, reason):
    (tmp_path / "f").write_text("what was here before")
    with pytest.raises(Problem) as problem:
        download.obtain(f"{server.url}/{manner}/f", tmp_path / "f", anything)
    for part in (f"{server.url}/{manner}/f", reason, "HEADSWAP_MIRROR", "make demo"):
        assert part in str(problem.value)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "what was here before"


def test_no_connection_ends_within_seconds(monkeypatch, tmp_path):
    monkeypatch.delenv("HEADSWAP_MIRROR", raising=False)
    started = time.monotonic()
    with pytest.raises(Problem, match="no connection"):
        download.obtain("http://127.0.0.1:9/f", tmp_path / "f", anything)
    assert time.monotonic() - started < 15


def test_the_mirror_comes_first_then_caches_then_the_address(server, tmp_path, monkeypatch):
    for place in ("mirror", "cache"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "f").write_bytes(BODY)
    monkeypatch.setenv("HEADSWAP_MIRROR", str(tmp_path / "mirror"))
    caches = [tmp_path / "cache" / "f"]

    def source():
        return download.obtain(f"{server.url}/well/f", tmp_path / "got", right, caches)

    assert source() == str(tmp_path / "mirror/f")
    (tmp_path / "mirror/f").write_bytes(b"damaged")
    assert source() == str(tmp_path / "cache/f")
    (tmp_path / "cache/f").unlink()
    assert source() == f"{server.url}/well/f"


def test_a_mirror_can_be_an_address(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSWAP_MIRROR", f"{server.url}/well/")
    assert download.obtain("http://127.0.0.1:9/f", tmp_path / "f", right) == f"{server.url}/well/f"


def test_every_place_that_was_tried_is_named_with_what_was_wrong(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSWAP_MIRROR", str(tmp_path))
    server.body = b"other"
    with pytest.raises(Problem) as problem:
        download.obtain(f"{server.url}/well/f", tmp_path / "new/f", right)
    assert f"{tmp_path}/f: no such file" in str(problem.value)
    assert f"{server.url}/well/f: has other bytes" in str(problem.value)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Put a stand-in for torchvision's file into a mirror, under a name with its digest."""
    network = torchvision.models.shufflenet_v2_x0_5()
    torch.save(network.state_dict(), tmp_path / "file")
    name = f"shufflenet-{sha256(tmp_path / 'file')[:8]}.pth"
    (tmp_path / "mirror").mkdir()
    file = (tmp_path / "file").rename(tmp_path / "mirror" / name)
    entry = torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def publish(url):
        changed = torchvision.models._api.Weights(f"{url}/{name}", entry.transforms, entry.meta)
        monkeypatch.setattr(entry, "_value_", changed)
        return changed.url

    publish("http://127.0.0.1:9")
    return network, file, publish


def provide(tmp_path, **changes):
    from conftest import ROOT

    chosen = params.load(ROOT / "params.yaml").model_copy(update=changes)
    target = tmp_path / "weights.safetensors"
    weights.provide("shufflenet_v2_x0_5", chosen, target)
    return weights.load(target)


@pytest.mark.parametrize("place", ["mirror", "hub cache", "server"])
def test_torchvisions_weights_are_found_and_kept(server, published, tmp_path, monkeypatch, place):
    network, file, publish = published
    source = None
    if place == "mirror":
        monkeypatch.setenv("HEADSWAP_MIRROR", str(file.parent))
    elif place == "hub cache":
        (tmp_path / "hub/checkpoints").mkdir(parents=True)
        file.rename(tmp_path / "hub/checkpoints" / file.name)
    else:
        server.body = file.read_bytes()
        source = publish(f"{server.url}/well")
    tensors, metadata = provide(tmp_path)
    assert all(value.equal(tensors[key]) for key, value in network.state_dict().items())
    assert metadata["head"] == "fc"
    assert metadata["source"].endswith(file.name) and source in (None, metadata["source"])


def test_weights_with_a_wrong_digest_are_refused(published, tmp_path, monkeypatch):
    _, file, _ = published
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    monkeypatch.setenv("HEADSWAP_MIRROR", str(file.parent))
    with pytest.raises(Problem, match="has SHA-256 .* not the original file"):
        provide(tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


def test_code_in_a_weights_file_is_not_run(published, tmp_path, monkeypatch):
    _, file, publish = published
    torch.save({"fc.weight": Evil()}, file)
    named = file.rename(file.with_name(f"evil-{sha256(file)[:8]}.pth"))
    entry = torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    changed = torchvision.models._api.Weights(
        f"http://127.0.0.1:9/{named.name}", entry.transforms, entry.meta
    )
    monkeypatch.setattr(entry, "_value_", changed)
    monkeypatch.setenv("HEADSWAP_MIRROR", str(file.parent))
    with pytest.raises(Problem, match="does not hold shufflenet_v2_x0_5's weights"):
        provide(tmp_path)


def test_random_weights_are_the_same_bytes_each_time(tmp_path):
    provide(tmp_path, weights="random")
    first = (tmp_path / "weights.safetensors").read_bytes()
    torch.manual_seed(99)
    provide(tmp_path, weights="random")
    assert (tmp_path / "weights.safetensors").read_bytes() == first


def test_old_names_of_densenet_are_translated():
    old = "features.denseblock1.denselayer2.norm.1.weight"
    assert weights._renamed(old) == "features.denseblock1.denselayer2.norm1.weight"
    assert old.replace("norm.1", "norm1") in torchvision.models.densenet121().state_dict()
    assert weights._renamed("features.norm5.weight") == "features.norm5.weight"
