"""Threads of adopted programs, where they are not numbered as /proc has it."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from lab.natt.adoption.task import process_of
from lab.probe import probe

PROGRAM = """
import os, threading
from lab.natt.adoption.task import process_of

def look():
    assert threading.get_native_id() != os.getpid()
    print(os.getpid(), process_of(threading.get_native_id()), process_of(os.getpid()))

thread = threading.Thread(target=look)
thread.start()
thread.join()
"""


@pytest.mark.skipif(not probe("pidns").present, reason=probe("pidns").detail)
def test_a_thread_is_found_in_a_namespace_whose_proc_nobody_mounted() -> None:
    argv = ["unshare", "--pid", "--fork", sys.executable, "-c", PROGRAM]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.returncode) == (["1", "1", "1"], 0), done.stderr


def test_a_thread_that_is_not_there() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    tid = thread.native_id
    thread.join()
    assert tid is not None
    with pytest.raises(ProcessLookupError):
        process_of(tid)
