#!/bin/sh
# Writes secrets.env with fresh passwords for the servers of this overlay; refuses to overwrite one.
set -eu
cd "$(dirname "$0")"
if [ -e secrets.env ]; then
    echo "$PWD/secrets.env is there already; its servers were set up with it" >&2
    exit 1
fi
umask 077
random() {
    od -An -v -tx1 -N"$1" /dev/urandom | tr -d ' \n'
}
postgres=$(random 24)
redis=$(random 24)
signing=$(random 32)
cat > secrets.env <<END
postgres-password=$postgres
database-url=postgres://riacho:$postgres@postgres:5432/riacho
database-janitor-url=postgres://riacho:$postgres@postgres:5432/riacho
database-migrate-url=postgres://riacho:$postgres@postgres:5432/riacho
redis-conf=requirepass $redis
redis-url=redis://:$redis@redis:6379/0
signing-secret=$signing
END
