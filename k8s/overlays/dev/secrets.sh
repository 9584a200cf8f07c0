#!/bin/sh
# Writes secrets.env with fresh passwords for the servers of this overlay; refuses to overwrite one. Needs openssl.
set -eu
cd "$(dirname "$0")"
if [ -e secrets.env ]; then
    echo "$PWD/secrets.env is there already; its servers were set up with it" >&2
    exit 1
fi
umask 077
postgres=$(openssl rand -hex 24)
redis=$(openssl rand -hex 24)
signing=$(openssl rand -hex 32)
cat > secrets.env <<END
postgres-password=$postgres
database-url=postgres://riacho:$postgres@postgres:5432/riacho
database-janitor-url=postgres://riacho:$postgres@postgres:5432/riacho
database-migrate-url=postgres://riacho:$postgres@postgres:5432/riacho
redis-conf=requirepass $redis
redis-url=redis://:$redis@redis:6379/0
signing-secret=$signing
END
