#!/bin/sh
# Start Caddy, which makes the api reachable from elsewhere; so the api must require API keys.
set -eu
case ${PENSTOCK_REQUIRE_KEYS:-} in
1 | [Tt]rue | TRUE | [Yy]es | [Oo]n) required=yes ;;
*) required=no ;;
esac
if [ $required = no ] && [ -z "${PENSTOCK_OIDC_ISSUER:-}" ] && [ ! -s /run/secrets/api_keys ]; then
    echo 'the api requires no keys: put PENSTOCK_REQUIRE_KEYS=true into penstock.env, then start api and proxy again' >&2
    exit 1
fi
exec caddy run --config /etc/caddy/Caddyfile --adapter caddyfile
