# Sourced by launch_tpu.sh: all gcloud calls for one slice. Uses its flags as variables: name, zone,
# project, place (zone and project as flags), accelerator, image, spot, queue, dry_run.

note() { if [ -n "$dry_run" ]; then echo "# $*"; else echo "[launch_tpu] $*"; fi; }
complain() { printf '\nError: %s\n' "$*" >&2; }
fail() {
    complain "$@"
    exit 1
}

quoted() { # quotes an argument as one shell word
    local quote="'\\''"
    case $1 in
    "" | *[!A-Za-z0-9_./:=@%+,-]*) printf "'%s'" "${1//\'/$quote}" ;;
    *) printf %s "$1" ;;
    esac
}
all_quoted() {
    local word space=""
    for word; do
        printf '%s%s' "$space" "$(quoted "$word")"
        space=" "
    done
}

cloud() { # runs gcloud, or prints the command if --dry-run is given
    if [ -n "$dry_run" ]; then echo "gcloud compute tpus $(all_quoted "$@")"; else
        gcloud compute tpus "$@" </dev/null
    fi
}
remote() { # WORKER TEXT: runs shell text on one worker or all; keep-alives detect dead connections
    cloud tpu-vm ssh "$name" --worker="$1" --command="$2" --ssh-flag=-oServerAliveInterval=20 \
        --ssh-flag=-oConnectTimeout=20 "${place[@]}"
}
worker() { echo "bash mixer/scripts/tpu_worker.sh $(all_quoted "$@")"; }

again() { # COMMAND: prints the command line for the same slice
    echo "bash scripts/launch_tpu.sh $1 $(all_quoted --name="$name" --zone="$zone" \
        ${project:+"--project=$project"})"
}
describe() { # KIND FIELD: prints the field, or ABSENT; fails if gcloud does
    local answer question=("$1" describe "$name" --format="value($2)" "${place[@]}")
    if answer=$(cloud "${question[@]}" 2>"$temporary/err"); then
        echo "${answer:-UNKNOWN}"
    elif grep -q NOT_FOUND "$temporary/err"; then
        echo ABSENT
    else
        cat "$temporary/err" >&2
        return 1
    fi
}
slice_state() { # prints the state of the queued resource until that is ACTIVE, then of the slice
    local queued node
    queued=$(describe queued-resources state.state) || return
    if [ "$queued" != ABSENT ] && [ "$queued" != ACTIVE ]; then
        echo "$queued"
        return
    fi
    node=$(describe tpu-vm state) || return
    [ "$queued $node" != "ACTIVE ABSENT" ] || node=SUSPENDED # it outlived its slice
    echo "$node"
}
worker_states() { remote all "$(worker state)" 2>"$temporary/err"; }

request_slice() {
    local kind=(--accelerator-type="$accelerator")
    if [ -n "$queue" ]; then
        cloud queued-resources create "$name" --node-id="$name" "${kind[@]}" \
            --runtime-version="$image" ${spot:+--spot} "${place[@]}"
    else
        cloud tpu-vm create "$name" "${kind[@]}" --version="$image" ${spot:+--spot} "${place[@]}"
    fi
}

delete_slice() {
    local queued=${queue:-ABSENT} node=PRESENT
    if [ -z "$dry_run" ]; then
        queued=$(describe queued-resources state.state) && node=$(describe tpu-vm state) || return
    fi
    if [ "$queued" != ABSENT ]; then
        cloud queued-resources delete "$name" --force "${place[@]}"
    elif [ "$node" != ABSENT ]; then
        cloud tpu-vm delete "$name" "${place[@]}"
    fi
}

ensure_slice() { # returns once the slice is READY; replaces a lost one
    local state shown="" requested="" type
    while :; do
        state=$(slice_state) || state="unknown to gcloud"
        [ "$state" = "$shown" ] || note "Slice $name: $state"
        shown=$state
        case $state in
        READY)
            type=$(describe tpu-vm acceleratorType) || type=UNKNOWN
            case ${type##*/} in "$accelerator" | UNKNOWN) ;; *)
                fail "expected the slice $name to be a $accelerator, got a $type; choose another" \
                    "--name, or delete it: $(again delete)" ;;
            esac
            had_slice=yes
            return
            ;;
        ABSENT)
            note "Requesting a $accelerator"
            if request_slice; then requested=yes; else
                [ -n "$had_slice" ] || fail "the slice could not be created; see gcloud's error" \
                    "above. If no slice is free, try --queue, --spot or another --zone"
                sleep "$poll" # after a preemption, often no slice is free for a while
            fi
            ;;
        FAILED | SUSPENDED | PREEMPTED | TERMINATED)
            [ "$state$requested$had_slice" != FAILEDyes ] ||
                fail "the queue refused the request; see: gcloud compute tpus queued-resources" \
                    "describe $(all_quoted "$name" "${place[@]}"); then: $(again delete)"
            note "Deleting the lost slice"
            delete_slice || sleep "$poll"
            ;;
        STOPPED | HIDDEN) fail "expected a usable slice, got one that is $state; start it" \
            "(gcloud compute tpus tpu-vm start) or: $(again delete)" ;;
        *)
            [ -n "$had_slice" ] || [ "$state" != "unknown to gcloud" ] ||
                fail "expected the state of $name from gcloud, got the error above;" \
                    "try: gcloud auth login; check --project and --zone"
            sleep "$poll"
            ;;
        esac
    done
}
