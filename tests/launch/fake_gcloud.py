"""A gcloud for the tests of launch_tpu.sh: records its arguments, plays the cloud in a folder.

The folder $FAKE_CLOUD holds `calls.jsonl`; the states of the slice in `node` and of its queue entry
in `queue`, one used up per question, the last one stays (no file: there is none); one home folder
per worker, `w0`, `w1`, ...; and `script.json`, what to play: the number of `workers`, and for
"tpu-vm create" and others a list of answers, one used up per call: the states to come, or an ERROR.
What comes over ssh is really run by bash in the worker's home folder, in the states READY and
ANSWERING-..., which is that of a slice whose workers have not noticed yet.

It is started hundreds of times: os, json and sys are all it imports.
"""

import json
import os
import sys

CLOUD = os.environ["FAKE_CLOUD"]


def path(name: str) -> str:
    return os.path.join(CLOUD, name)


def read(name: str) -> str:
    if not os.path.exists(path(name)):
        return ""
    with open(path(name)) as file:
        return file.read()


def write(name: str, text: str) -> None:
    with open(path(name), "w") as file:
        file.write(text)


def next_answer(call: str, otherwise: str) -> str:
    script = json.loads(read("script.json"))
    if not script.get(call):
        return otherwise
    answer = script[call].pop(0)
    write("script.json", json.dumps(script))
    if answer.startswith("ERROR"):
        sys.exit(answer)
    return answer


def run(*program: str, **environment: str) -> int:
    return os.spawnvpe(os.P_WAIT, program[0], program, {**os.environ, **environment})


def on_workers(which: str, command: str) -> int:
    if not read("node").startswith(("READY", "ANSWERING-")):
        sys.exit("ERROR: (gcloud.compute.tpus.tpu-vm.ssh) the TPU is not reachable")
    count = json.loads(read("script.json"))["workers"]
    codes = []
    for number in range(count) if which == "all" else [int(which)]:
        home = path(f"w{number}")
        os.makedirs(home, exist_ok=True)
        os.chdir(home)
        codes.append(run("bash", "-c", command, HOME=home, WORKER=str(number)))
    return max(codes)


def describe(kind: str) -> None:
    file = {"tpu-vm": "node", "queued-resources": "queue"}[kind]
    next_answer(f"{kind} describe", "")
    if not os.path.exists(path(file)):
        sys.exit(f"ERROR: (gcloud.compute.tpus.{kind}.describe) NOT_FOUND: Resource was not found.")
    state, *later = read(file).split()
    if later:
        write(file, " ".join(later))
    if state == "ACTIVE" and not os.path.exists(path("node")):
        write("node", "READY")
    print(state.removeprefix("ANSWERING-"))


def main(arguments: list[str]) -> int:
    with open(path("calls.jsonl"), "a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    kind, verb = arguments[2:4]
    flags = dict(argument[2:].split("=", 1) for argument in arguments if "=" in argument)
    if verb == "describe" and flags["format"] == "value(acceleratorType)":
        print(read("type"))
    elif verb == "describe":
        describe(kind)
    elif verb == "create":
        file, first = ("node", "READY") if kind == "tpu-vm" else ("queue", "ACTIVE")
        write(file, next_answer(f"{kind} create", first))
        write("type", flags["accelerator-type"])
    elif verb == "delete":
        next_answer(f"{kind} delete", "")
        run("bash", "-c", f"cd '{CLOUD}' && rm -rf node queue w?")
    elif verb == "scp":
        return on_workers(flags["worker"], f"cp '{os.path.abspath(arguments[4])}' mixer.tar.gz")
    elif verb == "ssh":
        return on_workers(flags["worker"], flags["command"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
