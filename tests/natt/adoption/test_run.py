"""`nattd run` with programs that know nothing of it: they open AF_KEY sockets and mark UDP sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from lab.wait import wait_until

from ..conftest import inventory
from .conftest import PRELUDE, Adopted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and TUN")


class TestKeySockets:
    def test_register(self, adopt):
        assert adopt("print(register(key_socket())[:5], os.getpid() > 0)").output() == "(2, 7, 0, 3, 17) True"

    def test_errors_are_those_of_the_kernel(self, adopt):
        program = """
print(tried(socket.socket, 15, socket.SOCK_DGRAM, 2), tried(socket.socket, 15, socket.SOCK_RAW, 0),
      tried(socket.socket, 15, socket.SOCK_RAW | 0x100, 2))
"""
        assert adopt(program).output() == "ESOCKTNOSUPPORT EPROTONOSUPPORT EINVAL"

    def test_flags_of_the_descriptor(self, adopt):
        program = """
import fcntl, ctypes
make = ctypes.CDLL(None).socket
for flags in (0, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC):
    fd = make(15, socket.SOCK_RAW | flags, 2)
    print(bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK), fcntl.fcntl(fd, fcntl.F_GETFD))
"""
        assert adopt(program).output().split("\n") == ["False 0", "True 0", "False 1"]

    def test_without_the_right_to(self, place, tmp_path):
        argv = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
        program = PRELUDE + "print(tried(key_socket), tried(udp(1).setsockopt, 0, 16, policy(2)))"
        done = subprocess.run(
            [
                *place.enter,
                sys.executable,
                "-m",
                "lab.natt.nattd",
                "run",
                "--",
                *argv,
                sys.executable,
                "-ISc",
                program,
            ],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert (done.stdout, done.stderr) == ("EPERM EPERM\n", "")

    def test_no_descriptor_left_for_it(self, adopt):
        program = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 99))
print(tried(key_socket))
"""
        assert adopt(program).output() == "EMFILE"

    def test_children_too(self, adopt):
        program = """
sock = key_socket()
if os.fork() == 0:
    print(register(sock)[1], register(key_socket())[1], flush=True)
    code = "import socket; print(socket.socket(15, 3, 2).getsockopt(1, socket.SO_TYPE))"
    os.execvp("sh", ["sh", "-c", sys.executable + f" -ISc '{code}'"])
os.wait()
"""
        assert adopt(program).output().split("\n") == ["7 7", str(int(socket.SOCK_SEQPACKET))]

    def test_threads_too(self, adopt):
        program = """
import threading
def work():
    sock = udp(4500)
    sock.setsockopt(17, 100, 2)
    print(register(key_socket())[1], sock.getsockopt(17, 100))
thread = threading.Thread(target=work); thread.start(); thread.join()
"""
        assert adopt(program).output() == "7 2"

    def test_every_message_is_recorded(self, adopt):
        adopted = adopt("register(key_socket())")
        adopted.output()
        lines = [json.loads(line) for line in adopted.record.read_text().splitlines()]
        ways = [(line["way"], line["pfkey"][:4]) for line in lines if "pfkey" in line]
        assert ways == [("request", "0207"), ("answer", "0207")]


SENDER = """
other = udp(); other.bind(("127.0.0.1", 0))
print(other.getsockname()[1])
def send(*payloads, port=4500):
    for payload in payloads: other.sendto(payload, ("127.0.0.1", port))
def heard(sock):
    found = []
    while True:
        payload, source = sock.recvfrom(2000)
        if payload == bytes(4) + b"fence": return found
        assert source == other.getsockname()
        found.append(payload)
"""
ESP = b"\\x01\\x02\\x03\\x04" + bytes(36)


class TestMarkedSockets:
    DATAGRAMS = """
send(b"", b"\\xff", b"\\xfe", bytes(4), b"12345678", b"123456789", b"\\0\\0\\0\\1" + bytes(40))
send(bytes(4) + b"ike" * 20)
send(bytes(4) + b"fence")
print(heard(sock))
sys.stdin.readline()
"""
    DELIVERED = (b"", b"\xfe", bytes(4), b"12345678", bytes(4) + b"ike" * 20)

    def check(self, adopted: Adopted) -> None:
        adopted.line()
        assert adopted.line() == str(list(self.DELIVERED))
        wait_until(lambda: len(adopted.counters()) > 1, "the twin to read", 5)
        assert adopted.counters() == {"NattInKeepalives": 1, "XfrmInNoStates": 2}
        adopted.go()
        adopted.output()

    def test_marked_after_bind(self, adopt):
        self.check(adopt(SENDER + "sock = udp(4500); sock.setsockopt(17, 100, 2)" + self.DATAGRAMS))

    def test_marked_before_bind(self, adopt):
        program = "sock = udp(); sock.setsockopt(17, 100, 2); sock.bind(('127.0.0.1', 4500))"
        self.check(adopt(SENDER + program + self.DATAGRAMS))

    def test_sharing_its_port_by_itself(self, adopt):
        program = """
sock = udp(); sock.setsockopt(1, socket.SO_REUSEPORT, 1); sock.bind(("127.0.0.1", 4500))
sock.setsockopt(17, 100, 2)
"""
        self.check(adopt(SENDER + program + self.DATAGRAMS))

    def test_of_a_program_that_gave_up_root(self, adopt):
        program = "os.setresuid(65534, 65534, 65534); sock = udp(4500); sock.setsockopt(17, 100, 2)"
        self.check(adopt(SENDER + program + self.DATAGRAMS))

    def test_wildcard_and_both_families(self, adopt):
        program = """
sock = udp(4500, address=""); sock.setsockopt(17, 100, 2)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); six.setsockopt(41, socket.IPV6_V6ONLY, 1)
six.bind(("::", 4500)); six.setsockopt(17, 100, 2); six.settimeout(5)
there = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for payload in (b"123456789", bytes(4) + b"six"): there.sendto(payload, ("::1", 4500))
assert six.recv(100) == bytes(4) + b"six"
send(b"123456789", bytes(4) + b"fence")
print(heard(sock))
"""
        assert adopt(SENDER + program).output().split("\n")[1] == "[]"

    def test_drafts_00_and_01_that_no_kernel_has_any_more(self, adopt):
        program = """
sock = udp(500); sock.setsockopt(17, 100, 1)
send(bytes(8) + b"esp" * 9, b"ike" * 9, bytes(8), b"\\xff", bytes(4) + b"fence", port=500)
print(heard(sock), sock.getsockopt(17, 100))
"""
        assert adopt(SENDER + program).output().split("\n")[1] == str([b"ike" * 9, bytes(8)]) + " 1"

    def test_a_flag_that_changes(self, adopt):
        program = """
sock = udp(4500)
for flag in (2, 1, 0, 2):
    sock.setsockopt(17, 100, flag)
    send(b"123456789", bytes(8) + b"123456789", bytes(4) + b"fence")
    print(sock.getsockopt(17, 100), [len(one) for one in heard(sock)])
"""
        assert adopt(SENDER + program).output().split("\n")[1:] == ["2 [17]", "1 [9]", "0 [9, 17]", "2 [17]"]

    def test_what_the_option_refuses(self, adopt):
        program = """
sock, tcp = udp(4500), socket.socket()
print([tried(sock.setsockopt, 17, 100, flag) for flag in (99, b"\\2", b"")])
print(tried(tcp.setsockopt, 17, 100, 2))
print(sock.getsockopt(17, 100), sock.getsockopt(17, 100, 9), tried(os.fstat, 99))
sock.setsockopt(17, 100, 2)
print(sock.getsockopt(17, 100, 2), sock.getsockopt(17, 100, 9))
"""
        assert adopt(program).output().split("\n") == [
            "['ENOPROTOOPT', 'EINVAL', 'EINVAL']",
            "ENOPROTOOPT",
            f"0 {bytes(4)} EBADF",
            r"b'\x02\x00' b'\x02\x00\x00\x00'",
        ]

    def test_a_port_is_free_again_once_closed(self, adopt):
        program = """
for flag in (2, 2, 1):
    sock = udp(4500); sock.setsockopt(17, 100, flag)
    print(tried(udp, 4500)); sock.close()
"""
        assert adopt(program).output().split("\n") == ["EADDRINUSE"] * 3

    def test_a_closed_socket_hears_no_ike(self, adopt):
        program = """
sock = udp(4500); sock.setsockopt(17, 100, 2); sock.close()
other.connect(("127.0.0.1", 4500))
other.send(bytes(20))
deadline = time.monotonic() + 5
while True:
    time.sleep(0.01)
    answer = tried(other.send, bytes(20))
    if answer == "ECONNREFUSED" or time.monotonic() > deadline: break
print(answer)
"""
        assert adopt(SENDER + program).output().split("\n")[1] == "ECONNREFUSED"


class TestPolicies:
    def test_errors(self, adopt):
        program = """
sock, six = udp(4500), udp(4500, socket.AF_INET6, "::1")
four = lambda octets: tried(sock.setsockopt, 0, 16, octets)
print(four(policy(1)), four(policy(2)), four(policy(0)), four(policy(3)), four(policy(2, 5)), four(b"12345"))
print(four(policy(2, 2)), four(policy(2, 0)), four(bytes(5000)), tried(six.setsockopt, 41, 34, policy(2)))
print(tried(six.setsockopt, 0, 16, policy(2)))
"""
        assert adopt(program).output().split("\n") == [
            "None None EINVAL EINVAL EINVAL EINVAL",
            "ENOTSUP ENOTSUP EMSGSIZE None",
            "ENOTSUP",
        ]

    def test_bypass_takes_the_way_around_the_device(self, adopt, place):
        """A policy for all that goes to the peer; IKE must leave bare all the same."""
        program = """
keys, sock, plain = key_socket(), udp(), udp()
def address(kind, text, bits): return struct.pack("=HHBBH", 3, kind, 255, bits, 0) + struct.pack(
    "=HH4s8x", 2, 0, socket.inet_aton(text))
body = address(5, "0.0.0.0", 0) + address(6, "127.0.0.2", 32)
body += struct.pack("=HHHBxIIHHBBHII", 4, 18, 2, 2, 0, 0, 16, 50, 1, 2, 0, 0, 0)
keys.send(struct.pack("=BBBBHHII", 2, 14, 0, 0, 2 + len(body) // 8, 0, 1, 1) + body)
assert keys.recv(4096)[2] == 0
def device(sock):
    sock.connect(("127.0.0.2", 500)); return sock.getsockname()[0]
sock.setsockopt(0, 16, policy(2))
there = udp(500, address="127.0.0.2"); there.settimeout(0.3)
for one in (plain, sock):
    one.sendto(b"ike", ("127.0.0.2", 500))
    try: print(there.recv(100))
    except TimeoutError: print("nothing")
"""
        place.run("ip rule add pref 5000 lookup local")
        place.run("ip rule del pref 0 lookup local")
        assert adopt(program).output().split("\n") == ["nothing", "b'ike'"]


class TestLife:
    def test_exit_status(self, adopt):
        assert adopt("sys.exit(7)").finish() == ("", "", 7)

    def test_death_by_signal(self, adopt):
        assert adopt("os.kill(os.getpid(), 15)").finish() == ("", "", 128 + 15)

    def test_signals_are_passed_on_and_the_stack_outlives_the_goodbye(self, adopt):
        program = """
sock = key_socket()
def bye(*_):
    print("goodbye", register(sock)[1]); sys.exit(3)
signal.signal(signal.SIGTERM, bye); print("ready", flush=True)
while True: signal.pause()
"""
        adopted = adopt(program)
        assert adopted.line() == "ready"
        adopted.process.terminate()
        assert adopted.finish() == ("goodbye 7", "", 3)

    def test_a_second_signal_kills(self, adopt):
        adopted = adopt(
            "signal.signal(15, lambda *_: print('no')); key_socket(); print('ready')\n"
            "while True: signal.pause()"
        )
        assert adopted.line() == "ready"
        adopted.process.terminate()
        assert adopted.line() == "no"
        adopted.process.terminate()
        assert adopted.finish() == ("", "", 128 + 9)

    def test_a_program_that_is_not_there(self, place):
        argv = [*place.enter, sys.executable, "-m", "lab.natt.nattd", "run", "--", "/no/such/program"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
        assert (done.stderr, done.returncode) == (
            "nattd run: /no/such/program: No such file or directory\n",
            1,
        )

    def test_a_device_that_cannot_be_had(self, adopt, place):
        place.run("ip link add natt0 type veth peer name other")
        _, err, status = adopt("key_socket(); time.sleep(60)").finish()
        assert "device natt0" in err
        assert status == 1

    def test_wrong_words(self, adopt):
        _, err, status = adopt("time.sleep(60)", "--address", "nonsense").finish()
        assert (err, status) == ("nattd run: [tunnel]: addresses: 'nonsense' is not address/prefix", 2)

    def test_the_program_dies_with_its_kernel(self, adopt, place):
        adopted = adopt("key_socket(); print(os.getpid(), flush=True)\nwhile True: signal.pause()")
        pid = int(adopted.line())
        adopted.process.kill()
        wait_until(lambda: not _lives(pid), "the program to die", 5)

    def test_who_outlives_the_kernel_gets_errors_and_never_hangs(self, adopt):
        program = """
keys, sock = key_socket(), udp(4500)
reader, writer = os.pipe()
if os.fork():
    print(os.getpid(), flush=True)
    while True: signal.pause()
while os.getppid() != 1 and tried(key_socket) not in ("ENOSYS", "EAFNOSUPPORT"): time.sleep(0.01)
found = tried(key_socket), tried(sock.setsockopt, 17, 100, 2), tried(udp, 4501), keys.recv(99)
os.write(2, repr(found).encode())
"""
        adopted = adopt(program)
        adopted.line()
        adopted.process.kill()
        _, err = adopted.process.communicate(timeout=20)
        assert err == "('ENOSYS', 'ENOSYS', 'ENOSYS', b'')"

    def test_garbage_is_collected_once_all_is_loaded(self, place):
        program = "import gc; from lab.natt.nattd import main; print(main(['run', 'true']), gc.isenabled())"
        done = subprocess.run(
            [*place.enter, sys.executable, "-c", program], capture_output=True, text=True, timeout=20
        )
        assert (done.stdout, done.stderr) == ("0 True\n", "")

    def test_nothing_stays(self, adopt, place):
        before = inventory(place)
        program = "sock = udp(4500); sock.setsockopt(17, 100, 2); keys = key_socket(); register(keys)"
        adopt(program).output()
        assert inventory(place) == before


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
