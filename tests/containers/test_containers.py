"""Containers as nodes, on the engine that answers or a private one."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lab.net import topology_file
from lab.net.errors import EngineError, ImageMissingError
from lab.net.model import TopologyError
from lab.nodes import images
from lab.nodes.container_node import ContainerNode
from lab.nodes.engine import LABEL, Engine, connect, is_here
from lab.nodes.network import Network
from lab.nodes.owner import own_mark, reaps
from lab.nodes.places import CONTAINER, HOST, Places
from lab.nodes.proof import prove
from lab.wait import wait_until

ONE_NAT = topology_file.load("one_nat")
ALL = dict.fromkeys(("left", "nat", "right"), HOST)
ROOT = Path(__file__).parents[2]


def ours(engine: Engine) -> list[str]:
    found = engine.api.containers(all=True, filters={"label": f"{LABEL}={own_mark()}"})
    return [each["Names"][0] for each in found]


@pytest.fixture(scope="module")
def network(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network.build(ONE_NAT, tmp_path_factory.mktemp("lab"), containers=ALL) as made:
        yield made
    wait_until(lambda: not ours(engine), lambda: f"{ours(engine)} to be gone")


def test_the_nat_between_containers_proves_itself(network: Network):
    prove(network)
    assert all(isinstance(node, ContainerNode) for node in network.nodes.values())


def test_a_program_runs_in_the_container_and_the_network_is_the_same(network: Network):
    left = network.nodes["left"]
    program = left.start(["sh", "-c", "hostname; readlink /proc/self/ns/net; exit 3"], "show")
    assert program.wait() == 3
    assert program.output().split() == ["left", f"net:[{left.namespace.inode}]"]
    assert os.readlink("/proc/self/ns/net") != f"net:[{left.namespace.inode}]"


def test_it_has_no_privilege_but_those_of_the_network(network: Network):
    program = network.nodes["left"].start(
        ["sh", "-c", "grep CapEff /proc/self/status; echo x >/proc/sys/a"], "caps"
    )
    program.wait()
    effective = int(program.stdout.read_text().split()[1], 16)
    net_admin, net_raw, sys_admin, sys_module, sys_ptrace = 12, 13, 21, 16, 19
    assert effective >> net_admin & 1
    assert effective >> net_raw & 1
    assert not any(effective >> number & 1 for number in (sys_admin, sys_module, sys_ptrace))


def test_signals_and_exit_statuses_are_those_of_processes(network: Network):
    left = network.nodes["left"]
    asleep = left.start(["sleep", "60"], "sleep")
    assert asleep.poll() is None
    argv = Path(f"/proc/{asleep.pid}/cmdline")
    wait_until(lambda: argv.read_bytes() == b"sleep\00060\000", "sleep to take the place of the shell")
    asleep.signal(signal.SIGUSR1)
    assert asleep.wait() == -signal.SIGUSR1
    assert asleep.killed_by is None
    left.start(["sh", "-c", "kill -SEGV $$"], "crash").wait()
    crashed = left.programs[-1]
    assert crashed.killed_by == signal.SIGSEGV
    ignoring = left.start(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], "stubborn")
    wait_until(lambda: "ready" in ignoring.output(), "the program to be ready")
    assert ignoring.terminate(0.1) == -signal.SIGKILL
    with pytest.raises(TimeoutError, match="still runs after"):
        left.start(["sleep", "60"], "sleep").wait(0.05)


def test_the_environment_is_the_one_given(network: Network):
    program = network.nodes["left"].start(["env"], "env", env={"A": "b"})
    program.wait()
    assert "A=b" in program.output().split()
    assert not any(line.startswith("HOSTNAME=") for line in program.output().splitlines())


def test_a_program_that_there_is_not_says_so(network: Network):
    program = network.nodes["left"].start(["nonesuch"], "nonesuch")
    assert program.wait() == 127
    assert "nonesuch" in program.output()


def test_the_lab_s_python_runs_there_with_its_packages(network: Network):
    program = network.nodes["right"].start(
        [sys.executable, "-c", "import lab.natt.daemon, scapy; print('yes')"], "python", env=os.environ
    )
    assert (program.wait(30), program.output()) == (0, "yes")


def test_container_and_namespace_meet_in_one_topology(tmp_path: Path):
    with Network.build(ONE_NAT, tmp_path, containers={"left": HOST}) as mixed:
        prove(mixed)
        kinds = {name: isinstance(node, ContainerNode) for name, node in mixed.nodes.items()}
    assert kinds == {"left": True, "nat": False, "right": False}


def test_a_topology_says_which_of_its_nodes_are_containers(tmp_path: Path):
    text = (
        ROOT.joinpath("topologies/one_nat.yaml").read_text().replace("kind: nat,", "kind: nat, image: host,")
    )
    topology = topology_file.parse(text, "mixed", "mixed")
    assert topology.containers == {"nat": HOST}
    with Network.build(topology, tmp_path) as mixed:
        prove(mixed)
        assert isinstance(mixed.nodes["nat"], ContainerNode)


def test_places_of_a_cell():
    assert Places().containers(ONE_NAT, "natt", "strongswan") == {}
    assert Places(CONTAINER).containers(ONE_NAT, "natt", "strongswan") == ALL
    named = Places(images={"strongswan": "swan:6"})
    assert named.containers(ONE_NAT, "natt", "strongswan") == {"right": "swan:6"}
    assert named.containers(ONE_NAT, "strongswan", "strongswan") == {"left": "swan:6", "right": "swan:6"}
    assert named.brings_own_programs("strongswan")
    assert not named.brings_own_programs("natt")
    assert not Places(CONTAINER).brings_own_programs("natt")


def test_an_image_that_is_not_there_is_not_pulled(engine: Engine, tmp_path: Path):
    before = ours(engine)
    with pytest.raises(
        ImageMissingError, match=r"image 'example/nothing:1' is not in the engine .* never pulls"
    ):
        Network.build(ONE_NAT, tmp_path, containers={"left": HOST, "right": "example/nothing:1"})
    assert ours(engine) == before


def test_an_image_without_a_shell_is_refused_and_nothing_stays(engine: Engine, tmp_path: Path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    engine.api.import_image_from_data(buffer.getvalue(), repository="nattlab-test", tag="empty")
    before = ours(engine)
    with pytest.raises(EngineError, match="sh"):
        Network.build(ONE_NAT, tmp_path, containers={"left": HOST, "right": "nattlab-test:empty"})
    assert ours(engine) == before


def test_a_node_that_there_is_not(tmp_path: Path):
    with pytest.raises(TopologyError, match=r"no node 'lefft' in one_nat; there are left, nat and right"):
        Network.build(ONE_NAT, tmp_path, containers={"lefft": HOST})


def test_a_lab_that_is_killed_leaves_no_container(engine: Engine, tmp_path: Path):
    script = (
        "import sys, os; from pathlib import Path; from lab.net import topology_file\n"
        "from lab.nodes.network import Network\nfrom lab.nodes.owner import own_mark\n"
        "both = {'left': 'host', 'right': 'host'}\n"
        "made = Network.build(topology_file.load('one_nat'), Path(sys.argv[1]), containers=both)\n"
        "made.nodes['left'].start(['sleep', '600'], 'sleep')\n"
        "print(own_mark(), flush=True); sys.stdin.read()\n"
    )
    lab = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert lab.stdout is not None
    mark = lab.stdout.readline().strip()

    def left_over() -> list[str]:
        return [each["Id"] for each in engine.api.containers(all=True, filters={"label": f"{LABEL}={mark}"})]

    assert len(left_over()) == 2
    lab.kill()
    lab.communicate()
    wait_until(lambda: not left_over(), "the containers to end with their lab", 15)


def test_what_never_started_is_reaped_by_its_mark_and_nothing_else(engine: Engine):
    image = images.resolved(engine, HOST).name
    dead = own_mark().rsplit(" ", 1)[0] + " 1"
    made = {
        mark: engine.api.create_container(image, ["true"], labels={LABEL: mark} if mark else {})["Id"]
        for mark in (dead, own_mark(), "elsewhere 1 2 3", "")
    }
    try:
        engine.reap()
        there = {each["Id"] for each in engine.api.containers(all=True)}
        assert {mark for mark, id in made.items() if id in there} == {own_mark(), "elsewhere 1 2 3", ""}
    finally:
        for mark, id in made.items():
            if mark != dead:
                engine.api.remove_container(id)


def test_marks_tell_the_living_from_the_dead():
    child = subprocess.Popen(["sleep", "60"])
    from lab.nodes.owner import mark

    alive = mark(child.pid)
    assert not reaps(alive)
    child.kill()
    child.wait()
    assert reaps(alive)
    assert not reaps("no mark")
    assert not reaps("")


def test_a_container_of_another_host_is_told(engine: Engine):
    assert not is_here(1, "0123456789abcdef")
    assert not is_here(0, "")


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("unix:///nowhere/docker.sock", "no engine answers at unix:///nowhere/docker.sock: start one"),
        ("tcp://127.0.0.1:1", "no engine answers at tcp://127.0.0.1:1"),
        ("nonsense://x", "no engine at nonsense://x"),
        ("ssh://nobody@host.invalid", "no engine at ssh://nobody@host.invalid"),
    ],
)
def test_an_engine_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, host: str, said: str):
    monkeypatch.setenv("DOCKER_HOST", host)
    connect.cache_clear()
    try:
        with pytest.raises(EngineError) as raised:
            connect()
    finally:
        connect.cache_clear()
    assert said in str(raised.value)


def test_podman_is_refused(monkeypatch: pytest.MonkeyPatch):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"ApiVersion": "1.41", "Components": [{"Name": "Podman Engine"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        connect.cache_clear()
        try:
            with pytest.raises(EngineError, match=r"Podman answers .* loses the tags"):
                connect()
        finally:
            connect.cache_clear()
            server.shutdown()


def test_the_host_s_image_is_the_same_from_the_same_files():
    assert images.host_tar() == images.host_tar()
    with tarfile.open(fileobj=io.BytesIO(images.host_tar())) as tar:
        assert tar.getmember("bin").linkname == "usr/bin"
        assert tar.getmember("tmp").mode == 0o1777


def test_the_command_gives_an_engine_to_a_command(tmp_path: Path):
    command = [sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())"]
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none", "PYTHONPATH": str(ROOT)}
    inner = ["--", sys.executable, "-c", "import os; print(os.environ['DOCKER_HOST']); raise SystemExit(7)"]
    done = subprocess.run([*command, "engine", *inner], env=environment, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    folder = Path(done.stdout.strip().removeprefix("unix://")).parent
    assert not folder.exists()
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(folder) not in running


def test_an_engine_that_this_user_may_not_use(tmp_path: Path):
    script = (
        "import os; from lab.nodes.engine import connect\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: connect()\nexcept Exception as error: print(type(error).__name__, error)"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/socket", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
    assert done.stdout.startswith(f"EngineError no permission for the engine at unix://{tmp_path}/socket"), (
        done
    )


def test_a_full_disk_is_a_verdict_of_its_own(tmp_path: Path):
    # The engine's sockets need a short path.
    small, reports = Path(tempfile.mkdtemp(prefix="small-")), tmp_path / "reports"
    nattlab = [sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())"]
    cell = "ENC-01[natt-natt-one_nat-ikev2]"
    run = [*nattlab, "run", "--nodes=container", "-n", "0", "--reports", str(reports), cell]
    fill = 'dd if=/dev/zero of="$TMPDIR/fill" 2>/dev/null; unset TMPDIR; exec "$@"'
    mount = 'mount -t tmpfs -o size=32m tmpfs "$0" && TMPDIR=$0 exec "$@"'
    engine = [*nattlab, "engine", "--", "sh", "-c", fill, "sh", *run]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, str(small), *engine],
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    small.rmdir()
    results = reports / "latest/results.json"
    assert results.exists(), done.stdout + done.stderr
    (result,) = json.loads(results.read_text())["results"]
    assert result["verdict"] == "unavailable"
    assert "no space left on device" in result["reason"]
