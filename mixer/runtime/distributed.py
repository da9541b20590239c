"""Lets several processes train as one: each reads and computes its part of every batch.

On a Cloud TPU slice, JAX finds the workers by itself. Elsewhere three flags of `mixer/main.py` say
where the processes meet. A single process on a machine without a TPU needs none of this.
"""

import errno
import re
import socket

import jax

# Heartbeat and shutdown timeout: a process that is silent for this long counts as lost, and the
# others end.
_TIMEOUT_SECONDS = 60

_HOST = r"[\w.-]+|\[[0-9a-fA-F:.%\w]+\]"  # a name or an address, of IPv6 in brackets
_taken: list[socket.socket] = []  # kept open until the process ends


def start(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of the run; call it before anything that asks for a device.

    Waits up to five minutes for processes that have not started yet.

    Args:
      coordinator: HOST:PORT, where process 0 listens and the others reach it.
      num_processes: of the run.
      process_id: of this process, counted from 0.

    Raises:
      ValueError: some but not all of the three are given, or one is malformed or taken; or all are
        None on a Cloud TPU whose workers cannot be found.
    """
    if coordinator is None and num_processes is None and process_id is None:
        if _is_cloud_tpu():
            _start_on_cloud_tpu()
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            "Expected all of --coordinator, --num_processes and --process_id, or none of them; got "
            f"--coordinator={coordinator}, --num_processes={num_processes}, "
            f"--process_id={process_id}."
        )
    host, _, port = coordinator.rpartition(":")
    if not (
        re.fullmatch(_HOST, host) and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16
    ):
        raise ValueError(
            "Expected --coordinator=HOST:PORT, for instance 10.0.0.1:8476, the address of process "
            f"0 as all others see it; got {coordinator!r}."
        )
    if num_processes < 1:
        raise ValueError(f"Expected --num_processes to be at least 1; got {num_processes}.")
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"Expected --process_id from 0 to {num_processes - 1}, for --num_processes="
            f"{num_processes}; got {process_id}."
        )
    _check_not_taken(coordinator, int(port), process_id)
    # Without detection: SLURM's or MPI's variables would hide devices from the process.
    _initialize(coordinator, num_processes, process_id, cluster_detection_method="deactivate")


def _check_not_taken(coordinator: str, port: int, process_id: int) -> None:
    """Raises ValueError if this machine has another process with that id, or a use of the port.

    JAX would let both wait, and then abort. Processes of other machines are not seen.
    """
    name = socket.socket(socket.AF_UNIX)
    try:
        # In the abstract namespace of Linux: the system forgets it when the process ends.
        name.bind(f"\0mixer/{coordinator}/{process_id}")
    except OSError as error:
        name.close()
        if error.errno != errno.EADDRINUSE:
            return
        raise ValueError(
            f"Expected a process id of its own for each process; got --process_id={process_id} a "
            f"second time on this machine for --coordinator={coordinator}."
        ) from error
    _taken.append(name)
    if process_id != 0:
        return
    with socket.socket(
        socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    ) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return  # JAX may know better
            raise ValueError(
                f"Expected a free port in --coordinator={coordinator}, where this process 0 "
                f"listens; another program on this machine uses port {port}. Choose another one, "
                "for all processes."
            ) from error


def _initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    cluster_detection_method: str | None = None,
) -> None:
    """Starts JAX's coordination service and client; the only place for their settings."""
    # It would handle SIGTERM, which mixer/runtime/preemption.py does.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        cluster_detection_method=cluster_detection_method,
        heartbeat_timeout_seconds=_TIMEOUT_SECONDS,
        shutdown_timeout_seconds=_TIMEOUT_SECONDS,
    )


def _is_cloud_tpu() -> bool:
    """True if JAX will use the TPU of this machine; starts no backend.

    On a machine with TPU chips and libtpu, importing JAX sets the platforms to "tpu,cpu" unless
    JAX_PLATFORMS says otherwise: with JAX_PLATFORMS=cpu, one worker of a slice runs alone.
    """
    platforms: str | None = jax.config.jax_platforms  # type: ignore[attr-defined]
    return "tpu" in (platforms or "").split(",")


def _start_on_cloud_tpu() -> None:
    try:
        _initialize()
    except (ValueError, OSError) as error:  # no cluster, or no metadata server to ask
        raise ValueError(
            f"JAX did not find the workers of this Cloud TPU: {error} If this machine holds the "
            "whole TPU, say so: --coordinator=localhost:8476 --num_processes=1 --process_id=0."
        ) from error
