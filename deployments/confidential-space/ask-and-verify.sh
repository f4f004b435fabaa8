#!/bin/sh
# Asks the gateway with a challenge of its own, and verifies what it answers.
#   GATEWAY_TOKEN=... ./ask-and-verify.sh sha256:... "How tall is Mont Blanc?" [more options of consensus verify]
set -eu

image=${1:?sha256:...} question=${2:?QUESTION}
shift 2
challenge=$(openssl rand -hex 32)
jq --null-input --arg question "$question" --arg challenge "$challenge" \
    '{model: "default", messages: [{role: "user", content: $question}], consensus: {challenge: $challenge}}' |
    curl --fail-with-body --silent --show-error --json @- \
        --header "Authorization: Bearer $GATEWAY_TOKEN" \
        "http://localhost:8000/v1/chat/completions" > completion.json
jq --raw-output '.choices[0].message.content' completion.json
jq '.consensus.record' completion.json > record.json
consensus verify record.json --image "$image" --challenge "$challenge" "$@"
