#!/usr/bin/env bash
# Trains on a Cloud TPU slice from a laptop with gcloud, and resumes after preemptions.
# The part that runs on the slice is tpu_worker.sh. Compatible with bash 3.2, for macOS.
set -euo pipefail

cd "$(dirname "$0")/.."
source scripts/tpu_flags.sh
source scripts/tpu_slice.sh
dry_run="" name="" zone="" project="" accelerator="" image="" config="" workdir="" spot="" queue=""
keep="" had_slice="" command="" poll=${MIXER_TPU_POLL_SECONDS:-30}

setup() { # refuses while a program is running; keeps an existing environment
    local archive=build/mixer.tar.gz
    local refusal="echo 'Error: a program is running; stop it: launch_tpu.sh stop' >&2; exit 1"
    local clean="find mixer -mindepth 1 -maxdepth 1 ! -name .venv ! -name .run -exec rm -rf {} +"
    note "Setting up all workers with commit $(git rev-parse --short HEAD)"
    if [ -n "$dry_run" ]; then
        echo "mkdir -p build && git archive --format=tar.gz --output=$archive HEAD"
    else
        mkdir -p build && git archive --format=tar.gz --output="$archive" HEAD || return
    fi
    cloud tpu-vm scp "$archive" "$name:mixer.tar.gz" --worker=all "${place[@]}" &&
        remote all "mkdir -p mixer/.run; flock -n mixer/.run/lock true || { $refusal; }; $clean &&\
 tar -xzf mixer.tar.gz -C mixer && $(worker setup)"
}
start_program() { remote all "$(worker start "${program[@]}")"; }

follow_log() { # prints the log of worker 0 after line `lines`; sets lines and state
    local line
    state=""
    while IFS= read -r line; do
        case $line in
        "@mixer "*) read -r _ lines state <<<"$line" ;;
        *) printf '%s\n' "$line" ;;
        esac
    done < <(remote 0 "$(worker follow "$lines" 300)" 2>"$temporary/err")
}

# Returns once the program has ended or lost its slice. Sets outcome: finished, failed, stopped,
# interrupted (by a signal), restarted (the machine), preempted or deleted; and the workers' states.
watch_program() {
    local lines=$1 state slice suspicion=""
    while :; do
        follow_log
        slice=$(slice_state) || slice="unknown to gcloud"
        case $slice in
        READY) ;;
        FAILED | SUSPENDED | PREEMPTED | TERMINATED) outcome=preempted && return ;;
        ABSENT) outcome=deleted && return ;;
        *) note "Slice $name: $slice" && sleep "$poll" && continue ;;
        esac
        if ! states=$(worker_states); then
            note "Not every worker answers: $(tail -n 1 "$temporary/err")"
            sleep "$poll"
            continue
        fi
        case "$states"$'\n' in
        *" vanished"$'\n'*) outcome=restarted ;;
        *" interrupted"$'\n'*) outcome=interrupted ;;
        *" exited "[1-9]*) outcome=failed ;;
        *" idle"$'\n'*) outcome=stopped && return ;;
        *" running"$'\n'*)
            suspicion=""
            [ "$state" = running ] || sleep "$poll" # otherwise the log is followed at once
            continue
            ;;
        *) outcome=finished && return ;;
        esac
        # A preemption kills the program some time before gcloud reports it, so look twice.
        [ "$suspicion" != "$outcome" ] || return 0
        suspicion=$outcome
        sleep "$poll"
    done
}

conclude() { # after watch_program: reports how the program ended, and sets the exit code `code`
    code=1
    case $outcome in
    finished) note "The program finished" && code=0 ;;
    failed)
        code=$(sed -n 's/.* exited \([1-9][0-9]*\)$/\1/p' <<<"$states" | head -n 1)
        note "The program failed with exit code $code:"
        remote all "$(worker failure)" || true
        ;;
    *) note "The program did not finish: it or its slice was $outcome" ;;
    esac
}

launch() { # starts the program unless it is already running
    local states
    states=$(worker_states) || true # a new slice has no worker script yet
    case $states in
    *" running"*) note "Found a running program: following it" ;;
    *) setup || return ;;
    esac
    start_program
}

run() {
    while :; do
        ensure_slice
        if ! launch; then
            sleep "$poll"
            [ "$(slice_state || echo unknown)" = READY ] || continue
            fail "setup or start failed, see above. $costs"
        fi
        note "Ctrl-C ends only this script; the run continues"
        watch_program 0
        case $outcome in
        preempted) note "The slice was preempted: creating a new one" ;;
        restarted | interrupted)
            note "A worker was $outcome: starting again"
            remote all "$(worker stop)" || sleep "$poll"
            ;;
        *) break ;;
        esac
    done
    conclude
    if [ -n "$keep" ] || [ "$outcome" = stopped ]; then note "$costs"; else
        note "Deleting the slice"
        delete_slice || fail "the slice could not be deleted. $costs"
    fi
    return "$code"
}

interrupted() {
    note "Interrupted. The slice keeps running, and is billed until it is deleted:"
    note "  $(again follow)"
    note "  $(again delete)"
    exit 130
}

plan() { # for --dry-run: prints the commands of a run without incidents
    case $command in run | create | status)
        cloud queued-resources describe "$name" --format="value(state.state)" "${place[@]}"
        cloud tpu-vm describe "$name" --format="value(state)" "${place[@]}"
        ;;
    esac
    case $command in run | create) request_slice ;; esac
    case $command in run | setup) setup ;; esac
    case $command in run | start) start_program ;; esac
    case $command in run | follow) remote 0 "$(worker follow 0 300)" ;; esac
    case $command in run | follow | status) remote all "$(worker state)" ;; esac
    case $command in stop) remote all "$(worker stop)" ;; esac
    case $command$keep in run | delete*) delete_slice ;; esac
}

parse_flags "$@"
check_command
place=(--zone="$zone" ${project:+"--project=$project"} --quiet)
program=(--config="$config" --workdir="$workdir" ${overrides[@]+"${overrides[@]}"})
costs="The slice is billed until it is deleted: $(again delete)"
if [ -n "$dry_run" ]; then
    plan
    exit
fi
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
trap interrupted INT TERM
case $command in
run) run ;;
create) ensure_slice && note "$costs" ;;
setup) setup ;;
start) start_program && note "To follow it: $(again follow)" ;;
follow)
    watch_program -10
    conclude
    exit "$code"
    ;;
status)
    state=$(slice_state)
    note "Slice $name: $state"
    [ "$state" != READY ] || remote all "$(worker state)"
    ;;
stop) remote all "$(worker stop)" ;;
delete) delete_slice ;;
esac
