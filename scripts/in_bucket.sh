#!/usr/bin/env bash
# Runs a command whose local folder is kept in a bucket, for programs that need a local folder.
set -euo pipefail

if [ $# -lt 3 ] || [ "$1" = --help ] || [ "$1" = -h ]; then
    cat <<'END'
Usage: bash scripts/in_bucket.sh gs://BUCKET/PATH FOLDER COMMAND [ARGUMENT ...]

Fetches FOLDER from the bucket, runs the command, and copies FOLDER to the bucket every
MIXER_BUCKET_SECONDS (default 300) and at the end. Nothing is deleted in the bucket. The exit code
is the command's; 75 if it was interrupted (130), so that an engine starts it again.
END
    exit $(($# != 1))
fi
bucket=${1%/} folder=${2%/}
shift 2
case $bucket in gs://?*) ;; *)
    echo "Error: expected gs://BUCKET/PATH, got '$bucket'; see --help" >&2
    exit 1
    ;;
esac

copy() { gcloud storage rsync --recursive --quiet --exclude='.*orbax-checkpoint-tmp.*' "$1" "$2"; }
save() { copy "$folder" "$bucket"; }

# Written first: an empty folder of the bucket and one that cannot be reached must not look alike.
mkdir -p "$folder"
date >"$folder/last_start"
gcloud storage cp --quiet "$folder/last_start" "$bucket/last_start"
copy "$bucket" "$folder"

code=0
"$@" &
command=$!
trap 'kill -TERM "$command" 2>/dev/null || true' TERM INT
while kill -0 "$command" 2>/dev/null; do
    for _ in $(seq "${MIXER_BUCKET_SECONDS:-300}"); do
        kill -0 "$command" 2>/dev/null || break 2
        sleep 1
    done
    save || echo "Warning: $folder could not be copied to $bucket; trying again later" >&2
done
wait "$command" || code=$?
save
[ "$code" != 130 ] || code=75
exit "$code"
