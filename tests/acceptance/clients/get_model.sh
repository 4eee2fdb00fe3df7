#!/bin/sh
# Asks a service on this machine for one model and waits for it, on the wire as `get_model.sh --internal` does.
#   get_model.sh --internal --model-name NAME --hub HUB [--type T] [--download-path P] [--revision R] [--is-ovms]
#                [--precision P] [--device D] [--cache-size N] [--config-json JSON]
# Ends with 0 when the model is there, and with 1 when it is not. MODEL_DOWNLOAD_PORT and POLL_S come from outside.
set -u

port=${MODEL_DOWNLOAD_PORT:-8000}
pause=${POLL_S:-5}
name='' hub='' type='' path='' revision='' precision=int8 device=CPU cache='' more='' ovms=false

fail() {
    echo "$*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --internal) shift; continue ;;
        --is-ovms) ovms=true; shift; continue ;;
    esac
    [ $# -gt 1 ] || fail "$1 needs a value"
    case $1 in
        --model-name) name=$2 ;;
        --hub) hub=$2 ;;
        --type) type=$2 ;;
        --download-path) path=$2 ;;
        --revision) revision=$2 ;;
        --precision) precision=$2 ;;
        --device) device=$2 ;;
        --cache-size) cache=$2 ;;
        --config-json) more=$2 ;;
        *) fail "$1 is no option" ;;
    esac
    shift 2
done
[ -n "$name" ] && [ -n "$hub" ] || fail "--model-name and --hub are needed"

# The value of a key of the JSON object on standard input; nothing where it is not there.
value_of() {
    python3 -c 'import json, sys
value = json.load(sys.stdin).get(sys.argv[1], "")
print("\n".join(value) if isinstance(value, list) else value)' "$1"
}

tries=0
until curl --silent --fail --output /dev/null "http://localhost:$port/health"; do
    tries=$((tries + 1))
    [ "$tries" -lt 40 ] || fail "the service does not answer"
    sleep 3
done

body=$(python3 -c 'import json, sys
name, hub, kind, revision, ovms, precision, device, cache, more = sys.argv[1:]
model = {"name": name, "hub": hub, "is_ovms": ovms == "true"}
if kind:
    model["type"] = kind
if revision:
    model["revision"] = revision
config = {"precision": precision, "device": device}
if cache:
    config["cache_size"] = int(cache)
try:
    config.update(json.loads(more))
except ValueError:
    pass
model["config"] = config
print(json.dumps({"models": [model]}))' "$name" "$hub" "$type" "$revision" "$ovms" "$precision" "$device" "$cache" "$more")
place=$(python3 -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.argv[1], safe=""))' "$path")

answer=$(curl --silent --write-out '\n%{http_code}' --header 'Content-Type: application/json' --data "$body" \
    "http://localhost:$port/models/download?download_path=$place")
code=$(printf '%s\n' "$answer" | tail -n 1)
[ "$code" -lt 400 ] || fail "refused with $code: $answer"
ids=$(printf '%s\n' "$answer" | sed '$d' | value_of job_ids)
[ -n "$ids" ] || fail "there are no jobs: $answer"

ended=0
for id in $ids; do
    while :; do
        job=$(curl --silent "http://localhost:$port/jobs/$id")
        status=$(printf '%s' "$job" | value_of status)
        case $status in
            completed)
                echo "$(printf '%s' "$job" | value_of operation_type) $(printf '%s' "$job" | value_of output_dir)"
                break
                ;;
            failed)
                echo "failed: $(printf '%s' "$job" | value_of error)" >&2
                ended=1
                break
                ;;
            queued | downloading | converting) ;;
            *) echo "warning: the job is '$status'" >&2 ;;
        esac
        sleep "$pause"
    done
done
exit $ended
