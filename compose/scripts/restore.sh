#!/usr/bin/env bash
# Brings back what backup.sh copied, in place of all there is: restore.sh FOLDER --yes [--any-schema]
# A copy of the servers only (backup.sh --servers) leaves the objects as they are. With --any-schema a backup is taken whose schema is
# newer than that of the present image, which cannot start on it: RIACHO_IMAGE has to name another one before anything works again.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: restore.sh FOLDER --yes [--any-schema]" >&2; exit 2; }
# shellcheck source=compose/scripts/project.sh
source "$(dirname "$0")/project.sh"

folder=$(cd "$1" && pwd) || fail "there is no folder $1"
[ "${2:-}" = --yes ] || fail "this replaces all documents that are there; say --yes behind the folder"
case ${3:-} in '' | --any-schema) ;; *) fail "unknown argument $3" ;; esac
(cd "$folder" && sha256sum --check --quiet SHA256SUMS) || fail "$folder is damaged; nothing was changed"

# All is read once before anything is stopped or dropped.
has_objects=
if grep -q ' objects.tar$' "$folder/SHA256SUMS"; then
  is_whole_archive "$folder/objects.tar" || fail "the archive of objects is not a whole one; nothing was changed"
  has_objects=yes
fi
say "reading the dump"
# The rows of one table, for which pg_restore reads the dump to its end.
history=$(compose run --rm --no-deps -T --entrypoint pg_restore postgres --data-only --table schema_history --file - <"$folder/postgres.dump") ||
  fail "the dump of PostgreSQL cannot be read; nothing was changed"
schema=$(awk '/^COPY / { rows = 1; next } /^\\\.$/ { rows = 0 } rows && $1 + 0 > newest { newest = $1 } END { print newest + 0 }' <<<"$history")
((schema > 0)) || fail "the dump has no schema of Riacho; nothing was changed"

compose up --detach --wait --no-deps postgres

# The schema of the present image, where that can be found out; nothing where the database is new, or not in order.
known_schema() {
  local fits=0 checked
  checked=$(check_schema "$(setting RIACHO_IMAGE riacho:latest)") || fits=$?
  if [ "$fits" = 0 ]; then
    compose exec -T postgres psql --username postgres --dbname riacho --no-align --tuples-only --command 'SELECT max(version) FROM schema_history'
  else
    # As in crates/store/src/migrate.rs.
    sed -nE 's/.*this build (needs|knows only) ([0-9]+);.*/\2/p' <<<"$checked" | head -n 1
  fi
}

known=$(known_schema)
if [ -n "$known" ] && ((schema > known)) && [ "${3:-}" != --any-schema ]; then
  fail "the backup has schema $schema, and the present image knows only $known; nothing was changed. Set RIACHO_IMAGE to" \
    "$(cut -d ' ' -f 1 "$folder/image") or a newer one in $settings; --any-schema restores it all the same"
fi

# Noted from here on, so that what is cut off is done again. A way back that a deployment goes is noted as its own; whatever else was under
# way is replaced with all that was there.
present=$(setting RIACHO_IMAGE riacho:latest) copy=$folder next='' backup=''
if [ "$(noted phase)" = restoring ] && { [ "$(noted copy)" = "$1" ] || [ "$(noted copy)" = "$folder" ]; }; then
  present=$(noted present) next=$(noted next) backup=$(noted backup)
fi
note restoring || fail "this could not be written down in $deployment, and nothing was changed"

say "stopping all but the database"
# Those that write first, so that nothing is accepted that would be lost.
compose stop gateway extractor embedder indexer janitor redis
end_left_work || fail "what a script that was cut off has left at work could not be ended; all but the database is stopped"

say "PostgreSQL"
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
# However much there is: what is waited for ends, or the server does, and the last lines of its log say why.
# shellcheck disable=SC2016 # the container expands it
compose run --rm --no-deps -T --entrypoint sh redis -ec '
  redis-server /etc/redis.conf --appendonly no --save "" --port 0 --unixsocket /data/restore.sock --unixsocketperm 700 >/data/restore.log 2>&1 &
  server=$!
  cli="redis-cli -s /data/restore.sock"
  give_up() { echo "Redis: $1" >&2; tail -n 5 /data/restore.log >&2; exit 1; }
  says() { $cli info persistence 2>/dev/null | tr -d "\r" | grep -qx "$1"; }
  await() {
    tries=0
    until "$@"; do
      tries=$((tries + 1))
      kill -0 $server 2>/dev/null || give_up "the server has ended"
      [ $tries -le 18000 ] || give_up "an hour was not enough"
      sleep 0.2
    done
  }
  answers() { [ "$($cli ping 2>/dev/null)" = PONG ]; }
  is_written() { says aof_rewrite_in_progress:0 && says aof_rewrite_scheduled:0; }
  await answers
  $cli config set appendonly yes >/dev/null
  await is_written
  says aof_last_bgrewrite_status:ok || give_up "the append-only file was not written"
  $cli shutdown nosave || true
  wait
  rm -f /data/restore.log /data/restore.sock'

if [ -n "$has_objects" ]; then
  say "the objects"
  compose run --rm --no-deps -T --entrypoint sh gateway -c \
    'find /var/lib/riacho/objects -mindepth 1 -delete && exec tar --extract --directory /var/lib/riacho --overwrite --touch' <"$folder/objects.tar"
fi
# From here on documents may be accepted, which another restore would lose: what is cut off now is only started.
note restored || fail "$folder is restored, which could not be written down in $deployment; make room, and run this again"

say "starting everything"
compose up --detach --wait --wait-timeout 300
"$here/scripts/health-check.sh" --services
rm -f "$deployment"
say "restored from $folder"
