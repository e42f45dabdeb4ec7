#!/bin/sh
# Make the secrets that docker-compose.yml mounts, one file each; files that are there stay as they are.
#
#   sh deploy/make-secrets.sh [FOLDER]        default: secrets, beside docker-compose.yml
#
# Only you can enter the folder. The files in it are readable by all, because each container has a user of its own.
set -eu
folder=${1:-$(dirname "$0")/../secrets}
mkdir -p "$folder"
chmod 700 "$folder"

put() { # put NAME VALUE
    if [ ! -e "$folder/$1" ]; then
        printf '%s' "$2" >"$folder/$1"
        chmod 644 "$folder/$1"
    fi
}

password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

for user in admin api worker coordinator flower monitoring; do
    put "redis_$user" "$(password)"
done
put flower_basic_auth "admin:$(password)"
put grafana_password "$(password)"
# API keys are digested under it. If it is lost, every key is.
put key_pepper "$(password)"
# Optional, and empty at first. api_keys: those of an earlier version, NAME=KEY,NAME=KEY
put api_keys ""
put encryption_keys ""
put openai_api_key ""
put hf_token ""
