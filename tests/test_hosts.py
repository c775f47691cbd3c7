"""The commands of docs/cluster.md train on two hosts, which are network namespaces here."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from conftest import BIN, ROOT, SLOW, copy_of, edit, finish, read_until, results, start, train_all

pytestmark = pytest.mark.slow
HOSTS = ("headswap1", "headswap2")
BRIDGE = "headswap0"


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Make two network namespaces, 10.77.0.2 and 10.77.0.3; this one is 10.77.0.1."""
    if not shutil.which("ip") or ip("netns", "add", HOSTS[0], check=False).returncode:
        pytest.skip("needs iproute2, and the right to make network namespaces")
    try:
        ip("netns", "add", HOSTS[1])
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", "10.77.0.1/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number, host in enumerate(HOSTS, 2):
            cable = ("link", "add", f"cable{number}", "type", "veth")
            ip(*cable, "peer", "name", "net", "netns", host)
            ip("link", "set", f"cable{number}", "master", BRIDGE, "up")
            ip("-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", "net")
            ip("-n", host, "link", "set", "net", "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            ip("netns", "del", host, check=False)
        ip("link", "del", BRIDGE, check=False)


@pytest.fixture
def shared(workspace, monkeypatch):
    """Return a project that is not under /tmp, of which each host has its own."""
    edit(**SLOW, train={"epochs": 4, "batch_size": 2})
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        copy = copy_of(workspace, Path(folder), monkeypatch)
        subprocess.run(["git", "init", "--quiet"], check=True)
        Path(".venv").symlink_to(BIN.parent)
        yield copy


def commands():
    """Return the blocks of shell commands of the page."""
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs/cluster.md").read_text(), re.DOTALL)


def test_the_commands_of_the_page_train_on_two_hosts_with_the_same_bytes(workspace, hosts, shared):
    certificate, machines, runs = commands()
    subprocess.run(["sh", "-ec", certificate], check=True, capture_output=True)
    scheduler, worker = machines.strip().splitlines()
    worker = re.search('"(.*)"', worker).group(1).replace("$PWD", str(shared))
    quiet = "exec 2> /dev/null"
    # A /tmp of its own, unless that would hide the environment that runs the tests.
    own_tmp = "true" if str(BIN).startswith("/tmp/") else "mount -t tmpfs tmpfs /tmp"
    started = [subprocess.Popen(["sh", "-c", f"{quiet}; {scheduler}"], start_new_session=True)]
    try:
        for host in HOSTS:
            script = f"{own_tmp}; cd /tmp; {quiet}; {worker}"
            command = ["ip", "netns", "exec", host, "unshare", "-m", "sh", "-c", script]
            started.append(subprocess.Popen(command, start_new_session=True))
        process = start("sh", "-ec", runs)
        read_until(process, "seed 0: epoch 1/4")
        ip("link", "set", "cable2", "down")
        time.sleep(5)
        ip("link", "set", "cable2", "up")
        assert re.search(r"[45] runs trained", finish(process))
        on_two_hosts = results()
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    os.chdir(workspace)
    train_all()
    assert results() == on_two_hosts
