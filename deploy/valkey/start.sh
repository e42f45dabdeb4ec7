#!/bin/sh
# Start Valkey with one user per kind of process. Their passwords are in /run/secrets/redis_NAME; the server gets hashes.
set -eu
umask 077
rules=
for user in admin api worker coordinator flower monitoring; do
    password=$(cat "/run/secrets/redis_$user")
    if [ -z "$password" ]; then
        echo "the password of the Redis user $user is empty: put one into secrets/redis_$user" >&2
        exit 1
    fi
    hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
    rules="$rules;s/@$user@/#$hash/"
done
sed "${rules#;}" /etc/valkey/users.acl >/run/valkey/users.acl
exec valkey-server --dir /data --appendonly yes --appendfsync always --save "" --aclfile /run/valkey/users.acl \
    --maxmemory "${MAXMEMORY:-2gb}" --maxmemory-policy noeviction --hash-max-listpack-value 1024
