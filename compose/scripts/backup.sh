#!/usr/bin/env bash
# Copies PostgreSQL, Redis and the objects into a folder named after the time, while everything runs, and removes folders that are
# older than RIACHO_BACKUP_DAYS. Prints the folder. Once a day by a timer: docs/operations/compose.md.
#   backup.sh [--servers]     with --servers PostgreSQL and Redis only, into <time>.servers: what deploy.sh goes back to
set -euo pipefail
# shellcheck source=compose/scripts/project.sh
source "$(dirname "$0")/project.sh"

kind=${1:-}
case $kind in '' | --servers) ;; *) fail "unknown argument $kind; usage: backup.sh [--servers]" ;; esac
backups=$(setting RIACHO_BACKUPS /var/backups/riacho)
days=$(setting RIACHO_BACKUP_DAYS 7)
umask 077
mkdir -p "$backups"
# What a run left that was cut off. The lock says that no other one is at work; on a full disk this is the room for this one.
rm -rf "$backups"/.partial-*
name=$(date -u +%Y%m%dT%H%M%SZ)
partial=$backups/.partial-$name
if [ -n "$kind" ]; then name=$name.servers; fi
mkdir "$partial"
trap 'rm -rf "$partial"' EXIT
files=(image postgres.dump redis.rdb)

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
compose exec -T postgres pg_dump --username postgres --format custom riacho >"$partial/postgres.dump" || fail "PostgreSQL was not copied"

if [ "$kind" != --servers ]; then
  say "copying the objects" >&2
  # A status of 1 of tar says that a folder changed while it was read: uploads go on. It is judged where tar runs, since docker's own
  # failures end with 1 too.
  # shellcheck disable=SC2016 # the container expands it
  with_objects 'tar --create --directory /var/lib/riacho objects; status=$?; [ $status -le 1 ] || exit 3' \
    >"$partial/objects.tar" 2>"$partial/tar.log" || fail "the objects: $(tail -n 1 "$partial/tar.log")"
  rm "$partial/tar.log"
  is_whole_archive "$partial/objects.tar" || fail "the objects: the archive is not a whole one"
  files+=(objects.tar)
fi

image=$(setting RIACHO_IMAGE riacho:latest)
echo "$image $(docker image inspect --format '{{.Id}}' "$image")" >"$partial/image"
(cd "$partial" && sha256sum "${files[@]}" >SHA256SUMS)
# On the disk before it has the name of a whole one, and that name too.
sync --file-system "$partial"
mv "$partial" "$backups/$name"
sync "$backups"
trap - EXIT

if [ "$kind" != --servers ]; then
  # Only after one that is complete; the newest is never removed.
  limit=$(date -u --date "$days days ago" +%Y%m%dT%H%M%SZ)
  for old in "$backups"/[0-9]*T*Z "$backups"/[0-9]*T*Z.servers; do
    if [[ ${old##*/} < $limit && ${old##*/} != "$name" ]]; then rm -rf "$old"; fi
  done
  # The node exporter's folder, where the deployment is watched.
  textfiles=$(setting RIACHO_TEXTFILES /var/lib/riacho/textfiles)
  if [ -d "$textfiles" ]; then "$(dirname "$0")/backup-metric.sh" "$textfiles"; fi
fi
echo "$backups/$name"
