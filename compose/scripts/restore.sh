#!/usr/bin/env bash
# Brings back what backup.sh copied, in place of all there is: restore.sh FOLDER --yes
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: restore.sh FOLDER --yes" >&2; exit 2; }
# shellcheck source=compose/scripts/project.sh
source "$(dirname "$0")/project.sh"

folder=$(cd "$1" && pwd) || fail "there is no folder $1"
[ "${2:-}" = --yes ] || fail "this replaces all documents that are there; say --yes behind the folder"
(cd "$folder" && sha256sum --check --quiet SHA256SUMS) || fail "$folder is damaged; nothing was changed"

say "stopping all but the database"
# Those that write first, so that nothing is accepted that would be lost.
compose stop gateway extractor embedder indexer janitor redis

say "PostgreSQL"
compose up --detach --wait --no-deps postgres
psql=(compose exec -T postgres psql --quiet --no-psqlrc --username postgres --dbname postgres --set ON_ERROR_STOP=1)
"${psql[@]}" >/dev/null <<'SQL'
DROP DATABASE IF EXISTS riacho WITH (FORCE);
CREATE DATABASE riacho OWNER riacho_owner;
REVOKE ALL ON DATABASE riacho FROM PUBLIC;
GRANT CONNECT ON DATABASE riacho TO riacho_app, riacho_tasks;
SQL
# Beside an index that is built for a long time everything else waits; one that is cut off is worse.
compose exec -T postgres pg_restore --username postgres --dbname riacho --exit-on-error <"$folder/postgres.dump"

say "Redis"
# The server reads its append-only file where there is one, so that has to go; it starts once from the snapshot and writes a new one.
compose run --rm --no-deps -T --entrypoint sh redis -c 'rm -rf /data/* && cat >/data/dump.rdb' <"$folder/redis.rdb"
# shellcheck disable=SC2016 # the container expands it
compose run --rm --no-deps -T --entrypoint sh redis -ec '
  redis-server /etc/redis.conf --appendonly no --save "" --port 0 --unixsocket /data/restore.sock --unixsocketperm 700 >/data/restore.log 2>&1 &
  cli="redis-cli -s /data/restore.sock"
  tries=0
  until [ "$($cli ping 2>/dev/null)" = PONG ]; do
    tries=$((tries + 1))
    if [ $tries -gt 600 ]; then tail -n 5 /data/restore.log >&2; exit 1; fi
    sleep 0.2
  done
  $cli config set appendonly yes >/dev/null
  until $cli info persistence | tr -d "\r" | grep -qx aof_rewrite_in_progress:0 && $cli info persistence | tr -d "\r" | grep -qx aof_rewrite_scheduled:0; do
    sleep 0.2
  done
  $cli info persistence | tr -d "\r" | grep -qx aof_last_bgrewrite_status:ok
  $cli shutdown nosave || true
  wait
  rm -f /data/restore.log /data/restore.sock'

say "the objects"
compose run --rm --no-deps -T --entrypoint sh gateway -c \
  'find /var/lib/riacho/objects -mindepth 1 -delete && exec tar --extract --directory /var/lib/riacho --overwrite --touch' <"$folder/objects.tar"

say "starting everything"
compose up --detach --wait --wait-timeout 300
"$here/scripts/health-check.sh" --services
say "restored from $folder"
