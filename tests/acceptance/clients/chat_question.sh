#!/bin/sh
# Asks for one converted model and copies it, on the wire as the set-up of Chat Question-and-Answer does.
#   chat_question.sh NAME TYPE TARGET_FOLDER
# MODEL_DOWNLOAD_HOST, MODEL_DOWNLOAD_PORT and POLL_S come from outside.
set -u

base="http://$MODEL_DOWNLOAD_HOST:$MODEL_DOWNLOAD_PORT/api/v1"
pause=${POLL_S:-5}
name=$1 type=$2 target=$3

# One value out of the JSON on standard input, by the keys that lead to it.
pick() {
    python3 -c 'import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1:]:
    value = value[int(key)] if isinstance(value, list) else value.get(key, {})
print(value or "")' "$@"
}

tries=0
while [ "$(curl --silent --output /dev/null --write-out '%{http_code}' "$base/health")" != 200 ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 5 ] || exit 2
    sleep "$pause"
done

# The size of the cache is a text here.
body=$(python3 -c 'import json, sys
config = {"precision": "int8", "device": "CPU", "cache_size": "10"}
model = {"name": sys.argv[1], "hub": "openvino", "type": sys.argv[2], "is_ovms": True, "config": config}
print(json.dumps({"models": [model], "parallel_downloads": False}))' "$name" "$type")
answer=$(curl --silent --request POST "$base/models/download?download_path=downloaded_models/" \
    --header 'Content-Type: application/json' --data "$body")
case $answer in
    *error*)
        echo "refused: $answer" >&2
        exit 1
        ;;
esac

id=$(printf '%s' "$answer" | pick job_ids 0)
[ -n "$id" ] || exit 1
polls=0
while [ "$polls" -lt 60 ]; do
    job=$(curl --silent "$base/jobs/$id")
    status=$(printf '%s' "$job" | pick status)
    case $status in completed | failed) break ;; esac
    polls=$((polls + 1))
    sleep "$pause"
done

made=$(printf '%s' "$job" | pick result conversion_path)
if [ "$status" != completed ] || [ -z "$made" ] || [ ! -d "$made" ]; then
    echo "nothing to copy: $job" >&2
    exit 1
fi
mkdir -p "$target"
cp -r "$made"/* "$target"/
