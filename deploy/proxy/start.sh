#!/bin/sh
# Start Caddy, which makes the api reachable from elsewhere; so it wants API keys first.
set -eu
if [ ! -s /run/secrets/api_keys ]; then
    echo 'the api has no keys: put NAME=KEY into secrets/api_keys, then start api and proxy again' >&2
    exit 1
fi
exec caddy run --config /etc/caddy/Caddyfile --adapter caddyfile
