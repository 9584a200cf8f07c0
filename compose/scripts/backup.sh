#!/usr/bin/env bash
# Copies PostgreSQL, Redis and the objects into a folder named after the time, while everything runs, and removes folders that are
# older than RIACHO_BACKUP_DAYS. Prints the folder. Once a day by a timer: docs/operations/compose.md.
set -euo pipefail
# shellcheck source=compose/scripts/project.sh
source "$(dirname "$0")/project.sh"

backups=$(setting RIACHO_BACKUPS /var/backups/riacho)
days=$(setting RIACHO_BACKUP_DAYS 7)
umask 077
mkdir -p "$backups"
name=$(date -u +%Y%m%dT%H%M%SZ)
partial=$backups/.partial-$name
mkdir "$partial"
trap 'rm -rf "$partial"' EXIT

gateway=$(containers gateway | head -n 1)
[ -n "$gateway" ] || fail "no gateway runs, whose volume of objects is copied"

# The order counts. What Redis says of documents that PostgreSQL knows better is dropped when it is read, and what it lacks is
# found missing and done again. A row of the dump finds its objects, since those are written before it and removed an hour after.
say "copying Redis" >&2
# shellcheck disable=SC2016 # the container expands it
compose exec -T redis sh -c \
  'REDISCLI_AUTH=$(sed "s/^requirepass //" /run/secrets/redis_auth) exec redis-cli --rdb -' >"$partial/redis.rdb" 2>"$partial/redis.log" ||
  fail "Redis: $(tail -n 1 "$partial/redis.log")"
rm "$partial/redis.log"
[ "$(head -c 5 "$partial/redis.rdb")" = REDIS ] || fail "Redis sent no snapshot"

say "copying PostgreSQL" >&2
compose exec -T postgres pg_dump --username postgres --format custom riacho >"$partial/postgres.dump"

say "copying the objects" >&2
# A status of 1 says that a folder changed while it was read: uploads go on.
status=0
docker exec "$gateway" tar --create --directory /var/lib/riacho objects >"$partial/objects.tar" 2>"$partial/tar.log" || status=$?
((status <= 1)) || fail "the objects: $(tail -n 1 "$partial/tar.log")"
rm "$partial/tar.log"

docker inspect --format '{{.Config.Image}} {{.Image}}' "$gateway" >"$partial/image"
(cd "$partial" && sha256sum image objects.tar postgres.dump redis.rdb >SHA256SUMS)
sync "$partial"
mv "$partial" "$backups/$name"
trap - EXIT

# Only after one that is complete; the newest is never removed.
limit=$(date -u --date "$days days ago" +%Y%m%dT%H%M%SZ)
for old in "$backups"/[0-9]*T*Z; do
  if [[ ${old##*/} < $limit && ${old##*/} != "$name" ]]; then rm -rf "$old"; fi
done
rm -rf "$backups"/.partial-*
# The node exporter's folder, where the deployment is watched.
textfiles=$(setting RIACHO_TEXTFILES /var/lib/riacho/textfiles)
if [ -d "$textfiles" ]; then "$(dirname "$0")/backup-metric.sh" "$textfiles"; fi
echo "$backups/$name"
