import os
import socket
import threading

import pytest

from lab.net.errors import NetworkError
from lab.net.namespace import Namespace


def own_network() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_create_leaves_the_calling_thread_where_it_was():
    before = own_network()
    with Namespace.create("a") as a, Namespace.create("b") as b:
        assert own_network() == before
        assert len({a.inode, b.inode, before}) == 3


def test_entered_nests_and_comes_back_after_an_exception():
    home = own_network()
    with Namespace.create("a") as a, Namespace.create("b") as b:
        with pytest.raises(ZeroDivisionError), a.entered():  # noqa: PT012
            assert own_network() == a.inode
            with b.entered():
                assert own_network() == b.inode
            assert own_network() == a.inode
            raise ZeroDivisionError
        assert own_network() == home


def test_entering_moves_only_the_calling_thread():
    seen: list[int] = []
    home = own_network()
    with Namespace.create("a") as a, a.entered():
        thread = threading.Thread(target=lambda: seen.append(own_network()))
        thread.start()
        thread.join()
        assert seen == [a.inode], "a thread inherits the namespace of the thread that starts it"
        assert os.stat(f"/proc/{os.getpid()}/ns/net").st_ino in (home, a.inode)


def test_a_socket_stays_inside():
    with Namespace.create("a") as a, a.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
        assert [name for _, name in socket.if_nameindex()] != []
        with pytest.raises(OSError, match="unreachable"):
            inside.sendto(b"x", ("127.0.0.1", 9))


def test_close_is_idempotent_and_a_closed_namespace_says_so():
    a = Namespace.create("left")
    assert os.stat(a.path).st_ino == a.inode
    a.close()
    a.close()
    assert a.closed
    with pytest.raises(NetworkError, match="namespace left is closed"):
        a.fileno()
    with pytest.raises(NetworkError, match="left is closed"), a.entered():
        pass


def test_no_descriptor_is_left_behind():
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with Namespace.create("a") as a, a.entered():
            a.socket().close()
    assert set(os.listdir("/proc/self/fd")) == before
