# Sourced by launch_tpu.sh: parses and checks its command line, before anything is created.

usage() {
    cat <<'END'
Usage: bash scripts/launch_tpu.sh COMMAND --name=NAME --zone=ZONE [FLAG ...] [-- OVERRIDE ...]

Trains on a Cloud TPU slice. Example:
  bash scripts/launch_tpu.sh run --name=b16 --zone=europe-west4-a --accelerator_type=v3-32 --spot \
      --config=configs/pretrain_imagenet.py:B/16 --workdir=gs://BUCKET/b16

  run      create, setup, start and follow, again after each preemption; finally delete.
           Run it again to pick up a run, for example after Ctrl-C.
  create   create the slice, or wait until it is ready
  setup    copy the committed files of this clone to every worker and install the environment
  start    start python -m mixer.main in the background on every worker, unless it is running
  follow   show the log of worker 0 until the program ends; exits with the program's exit code
  status   show the state of the slice and of every worker
  stop     stop the program on every worker; the slice remains, and is billed
  delete   delete the slice (end a `run` with Ctrl-C first)

  --name=NAME              name of the slice
  --zone=ZONE              such as europe-west4-a
  --project=PROJECT        default: the project in gcloud config
  --accelerator_type=TYPE  (run, create, start) such as v3-32, v4-32, v5e-16, v5p-8 or v6e-8
  --runtime_version=IMAGE  default: the base image of the TPU generation
  --spot                   cheaper, but may be preempted
  --queue                  request a queued resource, which waits until a slice is free
  --config=FILE[:SIZE]     (run, start) as for mixer.main; the file must be committed
  --workdir=gs://...       (run, start) folder for checkpoints and metrics; resumed if it has some
  --keep                   (run) do not delete the slice at the end
  --dry-run                print the gcloud commands, ready to paste, without running them
  -- --config.KEY=VALUE    (run, start) everything after -- is passed to mixer.main
MIXER_TPU_POLL_SECONDS is the polling interval (default 30).
END
}

refuse() { # for errors of the user, before anything is done
    complain "$@"
    exit 2
}

parse_flags() { # ARGUMENT ...: sets command, one variable per flag, and overrides
    command=${1:---help}
    shift || true
    case $command in
    -h | --help)
        usage
        exit
        ;;
    run | create | setup | start | follow | status | stop | delete) ;;
    *) refuse "expected a command (run, create, setup, start, follow, status, stop, delete), got" \
        "'$command'; see --help" ;;
    esac
    while [ $# -gt 0 ]; do
        case $1 in
        --name=*) name=${1#*=} ;;
        --zone=*) zone=${1#*=} ;;
        --project=*) project=${1#*=} ;;
        --accelerator_type=*) accelerator=${1#*=} ;;
        --runtime_version=*) image=${1#*=} ;;
        --config=*) config=${1#*=} ;;
        --workdir=*) workdir=${1#*=} ;;
        --spot) spot=yes ;;
        --queue) queue=yes ;;
        --keep) keep=yes ;;
        --dry-run | --dry_run) dry_run=yes ;;
        -h | --help)
            usage
            exit
            ;;
        --)
            shift
            break
            ;;
        *) refuse "expected a flag of --help, as --flag=value, got '$1'; overrides of the config" \
            "go after a separate --" ;;
        esac
        shift
    done
    case $command in run | start) ;; *)
        [ $# = 0 ] || refuse "expected nothing after -- for $command, got '$*'" ;;
    esac
    overrides=("$@")
}

check_command() { # checks the flags that the command needs, and fills in defaults
    local file base
    [[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || refuse "expected --name=NAME of lowercase" \
        "letters, digits and hyphens, got '$name'; for example --name=mixer-b16"
    [ -n "$zone" ] || refuse "expected --zone=ZONE, got none; for example --zone=europe-west4-a"
    [[ $poll =~ ^[0-9]+(\.[0-9]+)?$ ]] ||
        refuse "expected MIXER_TPU_POLL_SECONDS in seconds, got '$poll'; correct or unset it"
    [ -n "$dry_run" ] || command -v gcloud >/dev/null ||
        refuse "expected gcloud on the PATH, got none; install it:" \
            "https://cloud.google.com/sdk/docs/install, then: gcloud init"
    case $command in run | create | start)
        case $accelerator in
        v5e-*) accelerator=v5litepod-${accelerator#v5e-} ;;
        esac
        [[ $accelerator =~ ^(v2|v3|v4|v5litepod|v5p|v6e)-[1-9][0-9]*$ ]] || refuse "expected" \
            "--accelerator_type=GENERATION-SIZE with v2, v3, v4, v5e, v5p or v6e, got" \
            "'$accelerator'; for example --accelerator_type=v3-32"
        # Source: "TPU software versions" of the Cloud TPU documentation.
        case $accelerator in
        v5litepod-*) base=v2-alpha-tpuv5-lite ;;
        v5p-*) base=v2-alpha-tpuv5 ;;
        v6e-*) base=v2-alpha-tpuv6e ;;
        *) base=tpu-ubuntu2204-base ;;
        esac
        image=${image:-$base}
        ;;
    esac
    case $command in run | setup | start)
        git rev-parse --quiet --verify HEAD >/dev/null 2>&1 || refuse "expected a git clone," \
            "got $PWD without a commit; only committed files are copied: git clone the project"
        [ -z "$(git status --porcelain 2>&1)" ] ||
            note "Warning: uncommitted changes are not copied to the slice; commit them first" >&2
        ;;
    esac
    case $command in run | start)
        file=${config%%:*}
        [ -n "$file" ] && git cat-file -e "HEAD:./$file" 2>/dev/null ||
            refuse "expected --config=FILE[:SIZE] with a committed file, got '$config';" \
                "for example --config=configs/digits.py; commit new files"
        case $workdir in
        gs://?*) ;;
        "") refuse "expected --workdir=gs://BUCKET/FOLDER, got none" ;;
        *)
            # Up to 8 cores (for v5e and v6e: chips) are one machine.
            [ "${accelerator##*-}" -le 8 ] || refuse "expected --workdir=gs://..., got" \
                "$workdir; a $accelerator is several machines, which only share a bucket"
            [ "$command" = start ] || [ -n "$keep" ] || refuse "expected --workdir=gs://..., got" \
                "$workdir, which would be deleted with the slice; use a bucket, or --keep"
            ;;
        esac
        ;;
    esac
}
