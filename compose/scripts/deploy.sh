#!/usr/bin/env bash
# Goes to another image, service by service, and back to the present one when something is not healthy: deploy.sh IMAGE [--without-backup]
#
# Where both images work with one schema, new containers start beside the old ones and these stop when the new ones are healthy: no
# request and no document is lost. Where the schema changes, everything stops for the migration and uploads are refused meanwhile
# (docs/operations/upgrades.md); the way back is then the backup made before.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: deploy.sh IMAGE [--without-backup]" >&2; exit 2; }
# shellcheck source=compose/scripts/project.sh
source "$(dirname "$0")/project.sh"

next=$1
present=$(setting RIACHO_IMAGE riacho:latest)
services=(janitor indexer embedder extractor gateway)
patience=$(setting RIACHO_DEPLOY_PATIENCE 120)
backup=
scale=()
rolled=()

docker image inspect "$next" >/dev/null 2>&1 || docker pull "$next" || fail "there is no image $next"

# Replaces a service's containers by as many of an image, one set beside the other.
roll() {
  local service=$1 image=$2 old new count
  mapfile -t old < <(containers "$service")
  count=${#old[@]}
  if ((count == 0)); then count=1; fi
  say "$service: $count to $image"
  RIACHO_IMAGE=$image compose up --detach --no-deps --no-recreate --scale "$service=$((count + ${#old[@]}))" "$service" >/dev/null 2>&1 || true
  mapfile -t new < <(containers "$service" | grep -vxF -f <(printf '%s\n' "${old[@]:-none}"))
  if ((${#new[@]} < count)) || ! await_healthy "$patience" "${new[@]}"; then
    say "$service: the new containers are not healthy"
    for id in "${new[@]}"; do docker logs --tail 5 "$id" 2>&1 | sed 's/^/    /' || true; done
    if ((${#new[@]} > 0)); then docker rm --force "${new[@]}" >/dev/null; fi
    return 1
  fi
  # nginx asks for the addresses at most a second ago; both sets answer until then.
  if ((${#old[@]} > 0)); then
    sleep 2
    docker stop --time 40 "${old[@]}" >/dev/null
    docker rm "${old[@]}" >/dev/null
  fi
}

# The same schema, so that both may work side by side.
roll_all() {
  local service
  for service in "${services[@]}"; do
    roll "$service" "$next" || return 1
    rolled+=("$service")
  done
}

# Those that were replaced, the last one first.
roll_back() {
  local i
  for ((i = ${#rolled[@]} - 1; i >= 0; i--)); do roll "${rolled[i]}" "$present" || return 1; done
}

# Everything is to be started as often as it runs now.
note_scale() {
  local service
  for service in "${services[@]}"; do
    scale+=(--scale "$service=$(containers "$service" | grep -c . || true)")
  done
}

# Whether an image fits the schema as it is: 0, or 4 where it needs another one.
check_schema() { RIACHO_IMAGE=$1 compose run --rm --no-deps -T migrate migrate --check 2>&1; }

start_all() {
  RIACHO_IMAGE=$1 compose up --detach --no-deps --force-recreate "${scale[@]}" "${services[@]}" >/dev/null 2>&1 || return 1
  local service ids=()
  for service in "${services[@]}"; do mapfile -t -O "${#ids[@]}" ids < <(containers "$service"); done
  await_healthy "$patience" "${ids[@]}"
}

keep_image() {
  local fresh=$settings.new
  { grep -v '^RIACHO_IMAGE=' "$settings" || true; echo "RIACHO_IMAGE=$1"; } >"$fresh"
  chmod --reference "$settings" "$fresh"
  mv "$fresh" "$settings"
}

if [ "${2:-}" != --without-backup ]; then
  say "making a backup"
  backup=$("$here/scripts/backup.sh" | tail -n 1)
  say "backup: $backup"
fi

fits=0
checked=$(check_schema "$next") || fits=$?
if [ "$fits" = 0 ]; then
  if roll_all && "$here/scripts/health-check.sh" --services; then
    keep_image "$next"
    say "deployed $next"
    exit 0
  fi
  say "rolling back to $present"
  roll_back || fail "rolling back to $present failed as well; look at: docker compose logs"
  fail "$next was not healthy; $present is in force again"
fi

# 4 is said where the schema is another one, and nowhere else: whatever else is wrong, everything goes on as it is.
[ "$fits" = 4 ] || fail "$next cannot be asked whether it fits the schema, and nothing was changed: $checked"
[ -n "$backup" ] || fail "$next needs another schema, and without a backup there is no way back; run without --without-backup"
note_scale
say "stopping everything for the migration"
if ! compose stop "${services[@]}" >/dev/null 2>&1; then
  start_all "$present" || fail "the services could be neither stopped nor started again; look at: docker compose logs"
  fail "the services could not be stopped; $present is in force, and nothing was changed"
fi
if RIACHO_IMAGE=$next compose run --rm --no-deps -T migrate && start_all "$next" && "$here/scripts/health-check.sh" --services; then
  keep_image "$next"
  say "deployed $next, with its schema"
  exit 0
fi
# The backup is older than what was accepted since: it is the way back only where the schema is another one by now.
fits=0
checked=$(check_schema "$present") || fits=$?
if [ "$fits" = 0 ]; then
  start_all "$present" || fail "starting $present again failed as well; look at: docker compose logs"
  fail "$next did not change the schema; $present is in force again, and nothing was lost"
fi
[ "$fits" = 4 ] || fail "everything is stopped, and $present cannot be asked whether the schema is still its own: $checked; the backup is $backup"
say "going back to $present and to the backup"
"$here/scripts/restore.sh" "$backup" --yes || fail "restoring $backup failed as well; look at: docker compose logs"
fail "$next was not healthy; $present is in force again, with the documents of $backup"
