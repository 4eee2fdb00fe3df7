#!/bin/sh
# Asks for one model and waits for it, on the wire as the set-up of Video Search and Summarization does.
#   video_search.sh BODY DOWNLOAD_PATH MODEL_FOLDER CACHE_SIZE
# Any answer to the submission but 200 ends it. Then the model's graph must be there, and gets another cache size in its
# place. MODEL_DOWNLOAD_URL (no prefix) and POLL_S come from outside.
set -eu

url=$MODEL_DOWNLOAD_URL
pause=${POLL_S:-5}
body=$1 path=$2 folder=$3 size=$4

# The text of a key of the flat part of a JSON object on standard input.
text_of() {
    python3 -c 'import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1:]:
    value = value[int(key)] if isinstance(value, list) else value.get(key, "")
print(value)' "$@"
}

waited=0
until curl --silent --fail "$url/health" >/dev/null; do
    waited=$((waited + 1))
    [ "$waited" -lt 900 ] || exit 2
    sleep 1
done

answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
code=$(curl --silent --output "$answer" --write-out '%{http_code}' --request POST \
    "$url/models/download?download_path=$path" --header 'Content-Type: application/json' --data "$body")
if [ "$code" != 200 ]; then
    echo "the submission was answered with $code: $(cat "$answer")" >&2
    exit 1
fi
id=$(text_of job_ids 0 <"$answer")
[ -n "$id" ]

polls=0
while :; do
    job=$(curl --silent --fail "$url/jobs/$id")
    status=$(printf '%s' "$job" | text_of status)
    case $status in
        completed) break ;;
        failed)
            echo "failed: $(printf '%s' "$job" | text_of error)" >&2
            exit 1
            ;;
    esac
    polls=$((polls + 1))
    [ "$polls" -lt 1080 ] || exit 3
    sleep "$pause"
done

# What is said to be there is looked at, and the graph is made to fit this machine.
graph=$folder/graph.pbtxt
grep -Eq 'cache_size:[[:space:]]*[0-9]+' "$graph"
sed -i -E "s/cache_size:[[:space:]]*[0-9]+/cache_size: $size/" "$graph"
grep -Eq "cache_size:[[:space:]]*$size" "$graph"
