#!/bin/sh
# Run valkey-cli as one of the users:  sh /etc/valkey/cli.sh admin INFO memory
set -eu
user=$1
shift
REDISCLI_AUTH=$(cat "/run/secrets/redis_$user")
export REDISCLI_AUTH
exec valkey-cli --user "$user" "$@"
