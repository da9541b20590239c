#!/usr/bin/env bash
# Runs on every worker of a Cloud TPU slice; launch_tpu.sh calls it over ssh.
#
# At most one program runs at a time. It holds the lock .run/lock while it is alive, so neither a
# stale PID nor a second start can be mistaken for it. The other files in .run are text: command,
# pid, log, log.old (of the previous start), and exit_code once the program has ended.
set -euo pipefail

if [ $# = 0 ] || [ "$1" = --help ] || [ "$1" = -h ]; then
    cat <<'END'
Usage: bash scripts/tpu_worker.sh COMMAND, on a worker of a Cloud TPU slice. Commands:
  setup                  create the environment .venv, installing Python 3.12 if necessary
  start [ARGUMENT ...]   start python -m mixer.main with the arguments in the background
  run [ARGUMENT ...]     run python -m mixer.main in the foreground; exit code 75 after a signal that
                         it has answered by saving, so that an engine starts it again
  state                  print the host name and the state: running, exited CODE, interrupted (by a
                         signal, after saving), vanished or idle
  follow LINES SECONDS   print the log after line LINES (-N: the last N lines) until the program
                         ends or the time is up, then a line: @mixer LINES STATE
  failure                print the end of the log if the program failed
  stop [SECONDS]         stop the program, by force after SECONDS (default 20), and reset the state
END
    exit
fi
cd "$(dirname "$0")/.."
source scripts/environment.sh
run=.run
interrupted='run the same command to go on\.$' # in the log, though the exit code is 0
mkdir -p "$run"

setup() {
    # TPU images come with Python 3.10. uv installs 3.12 without root, and without apt, which is
    # often locked by automatic upgrades in a machine's first minutes.
    if ! (find_python) >/dev/null 2>&1; then
        say "No Python 3.11 or newer on this image: installing 3.12 with uv"
        python3 -m pip install --user --quiet 'uv>=0.5,<1' &&
            python3 -m uv python install 3.12 &&
            PYTHON=$(python3 -m uv python find 3.12) ||
            fail "expected uv to install Python 3.12, got the output above;" \
                "install Python 3.11 or 3.12 on the workers, then run setup again"
    fi
    prepare_environment tpu requirements-tpu.txt
}

state() {
    if [ -e "$run/lock" ] && ! flock --shared --nonblock "$run/lock" true; then
        echo running
    elif [ -e "$run/exit_code" ]; then
        sed 's/^[0-9]/exited &/' "$run/exit_code"
    elif [ -e "$run/pid" ]; then
        echo vanished # died without an exit code: the machine was restarted
    else
        echo idle
    fi
}

start() {
    local command
    [ -x .venv/bin/python ] ||
        fail "expected the environment $PWD/.venv, got none; run: launch_tpu.sh setup"
    exec 8>"$run/starting"
    flock 8 # one start at a time
    command=$(printf '%q ' "$@")
    if [ "$(state)" = running ]; then
        [ "$command" = "$(cat "$run/command")" ] ||
            fail "expected no other run on $(hostname), got one with the arguments" \
                "$(cat "$run/command"); run: launch_tpu.sh stop"
        say "$(hostname): already running"
        return
    fi
    rm -f "$run/exit_code" "$run/pid"
    [ ! -e "$run/log" ] || mv "$run/log" "$run/log.old"
    printf '%s\n' "$command" >"$run/command"
    setsid bash scripts/tpu_worker.sh supervise "$@" </dev/null >"$run/log" 2>&1 8>&- &
    for _ in $(seq 100); do
        [ ! -e "$run/pid" ] || break
        sleep 0.1
    done
    [ -e "$run/pid" ] || fail "the program did not start within 10 s: $(cat "$run/log")"
    say "$(hostname): started"
}

supervise() {
    local code=0
    exec 9>"$run/lock"
    flock --timeout 5 9 || fail "another run holds $PWD/$run/lock"
    echo $$ >"$run/pid"
    # The program inherits the lock: it counts as running even if this shell is killed.
    PYTHONUNBUFFERED=1 .venv/bin/python -m mixer.main "$@" || code=$?
    # The exit code is also 0 after a signal, although training has not finished.
    [ "$code" != 0 ] || ! grep -q "$interrupted" "$run/log" || code=interrupted
    echo "$code" >"$run/exit_code.new"
    mv "$run/exit_code.new" "$run/exit_code"
}

run() {
    local code=0
    exec 9>"$run/lock"
    flock --nonblock 9 || fail "expected no other run on $(hostname); run: tpu_worker.sh stop"
    PYTHONUNBUFFERED=1 .venv/bin/python -m mixer.main "$@" 2>&1 |
        (trap '' TERM INT && exec tee "$run/log") || code=$?
    [ "$code" != 0 ] || ! grep -q "$interrupted" "$run/log" || code=75
    return "$code"
}

follow() {
    local lines=$1 deadline=$((SECONDS + $2)) total state
    touch "$run/log"
    [ "$lines" -ge 0 ] || lines=$(($(wc -l <"$run/log") + lines))
    while :; do
        state=$(state) # before reading the log, so that the last lines are not missed
        total=$(wc -l <"$run/log")
        [ "$lines" -ge 0 ] && [ "$lines" -le "$total" ] || lines=0 # restarted meanwhile
        # Only complete lines, so that the next call can continue after the last one.
        [ "$lines" -eq "$total" ] || sed -n "$((lines + 1)),${total}p" "$run/log"
        lines=$total
        [ "$state" = running ] && [ "$SECONDS" -lt "$deadline" ] || break
        sleep 0.2
    done
    echo "@mixer $lines $state"
}

failure() {
    case $(state) in
    "exited 0" | interrupted | running | idle) ;;
    *)
        echo "$(hostname) $(state), the end of its log:"
        tail -n 30 "$run/log" | sed "s/^/  /"
        ;;
    esac
}

stop() {
    local group
    if [ "$(state)" = running ]; then
        group=$(cat "$run/pid") # the process group that `start` created with setsid
        kill -TERM -- "-$group" 2>/dev/null || true
        flock --timeout "${1:-20}" "$run/lock" true || {
            kill -KILL -- "-$group" || true
            flock --timeout 10 "$run/lock" true || fail "$(hostname): process $group does not exit"
        }
    fi
    rm -f "$run/pid" "$run/exit_code" "$run/command"
    say "$(hostname): stopped"
}

case $1 in
state) echo "$(hostname) $(state)" ;;
setup | run | start | supervise | follow | failure | stop) "$@" ;;
*) fail "expected setup, start, run, state, follow, failure or stop, got: $1; see --help" ;;
esac
