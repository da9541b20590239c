"""Starting several processes: what is refused, and how the workers of a TPU find each other."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import pytest
from children import read_line
from ports import free_port

from mixer.runtime import distributed

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("h:1", None, None), r"all of .*or none of them; got --coordinator=h:1, .*=None"),
        ((None, 2, 0), "all of .*--coordinator=None, --num_processes=2, --process_id=0"),
        (("h:1", 2, None), "all of .*--process_id=None"),
        (("host", 2, 0), "--coordinator=HOST:PORT.*got 'host'"),
        ((":1234", 2, 0), "--coordinator=HOST:PORT.*got ':1234'"),
        (("host:http", 2, 0), "--coordinator=HOST:PORT.*got 'host:http'"),
        (("http://host:1", 2, 0), "--coordinator=HOST:PORT.*got 'http://host:1'"),
        (("a b:1", 2, 0), "--coordinator=HOST:PORT.*got 'a b:1'"),
        (("::1:1", 2, 0), "--coordinator=HOST:PORT.*got '::1:1'"),
        (("host:\u0663", 2, 0), "--coordinator=HOST:PORT.*got 'host:"),
        (("host:65536", 2, 0), "--coordinator=HOST:PORT.*got 'host:65536'"),
        (("host:1", 0, 0), "--num_processes to be at least 1; got 0"),
        (("host:1", 2, 2), "--process_id from 0 to 1, for --num_processes=2; got 2"),
        (("host:1", 2, -1), "--process_id from 0 to 1, for --num_processes=2; got -1"),
    ],
)
def test_flags_that_cannot_work_are_refused_before_anything_starts(arguments, message, monkeypatch):
    monkeypatch.delattr(jax.distributed, "initialize")  # a call would be another error
    with pytest.raises(ValueError, match=message):
        distributed.start(*arguments)


def test_a_port_that_is_in_use_is_refused_by_process_0(monkeypatch):
    started = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: started.append(args))
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=f"another program on this machine uses port {port}"):
            distributed.start(f"localhost:{port}", 2, 0)
        assert started == []
        distributed.start(f"localhost:{port}", 2, 1)  # that is where process 0 listens
    assert started == [(f"localhost:{port}", 2, 1)]


def test_the_second_process_of_an_id_is_refused_until_the_first_ends(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: None)
    for address in (f"127.0.0.1:{free_port()}", f"[::1]:{free_port()}"):
        program = f"""
import jax
from mixer.runtime import distributed
jax.distributed.initialize = lambda *args, **kwargs: print("started", flush=True)
distributed.start("{address}", 3, 1)
input()
"""
        with subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as first:
            assert read_line(first) == "started\n"
            for _ in range(2):
                message = "got --process_id=1 a second time on this machine"
                with pytest.raises(ValueError, match=message):
                    distributed.start(address, 3, 1)
            distributed.start(address, 3, 2)
            first.kill()
        distributed.start(address, 3, 1)


def test_one_process_on_a_machine_without_tpu_starts_nothing(monkeypatch):
    started = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: started.append(args))
    distributed.start(None, None, None)
    assert started == []


def test_a_silent_process_counts_as_lost_after_a_minute(monkeypatch):
    given = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: given.update(kwargs))
    distributed.start("host:1", 2, 0)
    assert given["heartbeat_timeout_seconds"] == given["shutdown_timeout_seconds"] == 60


def test_a_cloud_tpu_whose_workers_are_not_found_is_an_error(monkeypatch):
    def initialize(*args, **kwargs):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(distributed, "_is_cloud_tpu", lambda: True)
    message = r"coordinator_address should be defined\. If .* --num_processes=1 --process_id=0"
    with pytest.raises(ValueError, match=message):
        distributed.start(None, None, None)


def test_the_workers_of_a_tpu_find_each_other():
    # JAX's own detection, with the variables that Kubernetes sets on two workers of a TPU slice.
    program = """
import jax
from mixer.runtime import distributed
distributed.start(None, None, None)
jax.config.update("jax_platforms", "cpu")  # there is no TPU to ask
print(jax.process_index(), jax.process_count())
"""
    worker = {key: value for key, value in os.environ.items() if key != "JAX_PLATFORMS"}
    worker |= {"JAX_FORCE_TPU_INIT": "1", "JAX_COORDINATOR_PORT": str(free_port())}
    worker |= {"TPU_WORKER_HOSTNAMES": "localhost,localhost"}
    # Otherwise asked for over the network, because there might be several slices.
    worker |= {"MEGASCALE_COORDINATOR_ADDRESS": "localhost"}
    worker |= {"MEGASCALE_NUM_SLICES": "1", "MEGASCALE_SLICE_ID": "0"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**worker, "TPU_WORKER_ID": str(index)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        shown = [process.communicate(timeout=120)[0] for process in workers]
    finally:
        for process in workers:
            process.kill()
    assert [lines.splitlines()[-1] for lines in shown] == ["0 2", "1 2"]


@pytest.mark.slow
def test_a_process_that_fails_alone_ends_the_others_within_the_heartbeat():
    program = """
import time
import jax
from mixer import main, train_loop
from mixer.runtime import command, distributed

def train(*args, **kwargs):
    if jax.process_index() == 1:
        raise ValueError("damaged, and only here")
    time.sleep(100)

distributed._TIMEOUT_SECONDS = 5
train_loop.train = train
command.run(main.main)
"""
    command = [sys.executable, "-c", program, "--config=configs/digits.py", "--workdir=unused"]
    command += [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    processes = [
        subprocess.Popen(
            [*command, f"--process_id={index}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        errors = processes[1].communicate(timeout=120)[1]
        begin = time.monotonic()
        processes[0].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
    assert processes[1].returncode == 1
    assert errors == "error: damaged, and only here\n(--verbosity=0 shows where.)\n"
    assert processes[0].returncode not in (0, -9)
    assert time.monotonic() - begin < 10  # JAX by itself: 300 s
