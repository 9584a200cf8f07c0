#!/usr/bin/env bash
# Goes to another image, service by service, and back to the present one when something is not healthy: deploy.sh IMAGE [--without-backup]
#
# Where both images work with one schema, new containers start beside the old ones and these stop when the new ones are healthy: no
# request and no document is lost. Where the schema changes, everything stops for the migration and uploads are refused meanwhile
# (docs/operations/upgrades.md); the way back is then a copy of both servers made between the stop and the migration. How far that is
# stands in a file beside the settings, from which the next run takes up a deployment that was cut off.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: deploy.sh IMAGE [--without-backup]" >&2; exit 2; }
# shellcheck source=compose/scripts/project.sh
source "$(dirname "$0")/project.sh"

next=$1
present=$(setting RIACHO_IMAGE riacho:latest)
stages=(janitor indexer embedder extractor)
services=("${stages[@]}" gateway)
patience=$(setting RIACHO_DEPLOY_PATIENCE 120)
backup=
copy=
asked_back=
rolled=()

docker image inspect "$next" >/dev/null 2>&1 || docker pull "$next" || fail "there is no image $next"

show_logs() {
  local id
  for id in "$@"; do docker logs --tail 5 "$id" 2>&1 | sed 's/^/    /' || true; done
}

# Replaces a service's containers by as many of an image as the settings ask for, one set beside the other.
roll() {
  local service=$1 image=$2 id old=() poorly=() new count
  count=$(wanted_scale "$service") || return 1
  # What was made and never started would be started in place of a new one.
  compose rm --force "$service" >/dev/null 2>&1
  for id in $(containers "$service"); do
    if [ "$(health "$id")" = healthy ]; then old+=("$id"); else poorly+=("$id"); fi
  done
  old+=("${poorly[@]}")
  # More than that are left of a deployment that was cut off, or were added by hand.
  if ((${#old[@]} > count && count > 0)); then
    say "$service: ${#old[@]} run, the settings say $count"
    docker stop --time 40 "${old[@]:count}" >/dev/null
    docker rm "${old[@]:count}" >/dev/null
    old=("${old[@]:0:count}")
  fi
  say "$service: $count to $image"
  RIACHO_IMAGE=$image compose up --detach --no-deps --no-recreate --scale "$service=$((count + ${#old[@]}))" "$service" >/dev/null 2>&1 || true
  mapfile -t new < <(containers "$service" | grep -vxF -f <(printf '%s\n' "${old[@]:-none}"))
  if ((${#new[@]} < count)) || ! await_healthy "$patience" "${new[@]}"; then
    say "$service: the new containers are not healthy"
    show_logs "${new[@]}"
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

# Those that were replaced or stopped, by this run or by one before that was cut off, the last one first.
roll_back() {
  local i service images
  for ((i = ${#services[@]} - 1; i >= 0; i--)); do
    service=${services[i]}
    images=$(containers "$service" | xargs --no-run-if-empty docker inspect --format '{{.Config.Image}}' | sort -u)
    if [[ " ${rolled[*]} " == *" $service "* || ${images:-none} != "$present" ]]; then roll "$service" "$present" || return 1; fi
  done
}

# Starts services, each as often as the settings say, and waits until they are healthy: start IMAGE SERVICE..
start() {
  local image=$1 service scale=() ids=()
  shift
  for service in "$@"; do scale+=(--scale "$service=$(wanted_scale "$service")"); done
  RIACHO_IMAGE=$image compose up --detach --no-deps --force-recreate "${scale[@]}" "$@" >/dev/null 2>&1 || return 1
  for service in "$@"; do mapfile -t -O "${#ids[@]}" ids < <(containers "$service"); done
  if ! await_healthy "$patience" "${ids[@]}"; then
    show_logs "${ids[@]}"
    return 1
  fi
}

# A gateway that nobody is sent to: what `run` starts does not get the service's name on the network.
try_gateway() {
  local id well=0
  local trials=(--all --quiet --filter "label=com.docker.compose.project=$(project)" --filter label=com.docker.compose.service=gateway
    --filter label=com.docker.compose.oneoff=True)
  docker ps "${trials[@]}" | xargs --no-run-if-empty docker rm --force >/dev/null
  RIACHO_IMAGE=$next compose run --detach --no-deps gateway >/dev/null 2>&1 || well=1
  id=$(docker ps "${trials[@]}")
  if [ "$well" = 0 ] && ! await_healthy "$patience" "$id"; then
    show_logs "$id"
    well=1
  fi
  if [ -n "$id" ]; then docker rm --force "$id" >/dev/null; fi
  return $well
}

# It fails where the disk is full, and the settings stay as they are.
keep_image() {
  local fresh=$settings.new
  # 1 says that no line is left.
  { { grep -v '^RIACHO_IMAGE=' "$settings" || [ $? = 1 ]; } && echo "RIACHO_IMAGE=$1"; } >"$fresh" &&
    chmod --reference "$settings" "$fresh" &&
    sync "$fresh" &&
    mv "$fresh" "$settings" &&
    sync "$(dirname "$settings")"
}

# After the stop, with the schema as it was.
abandon() {
  start "$present" "${services[@]}" || fail "$1, and starting $present again failed as well; look at: docker compose logs"
  rm -f "$deployment"
  fail "$1; $present is in force, and nothing was lost"
}

# Everything is stopped. Nobody can upload before the new version is known to work, so that the way back loses nothing; of the objects no
# copy is needed for it, since the new version only adds to them, and removes what the janitor of the old one would remove as well.
migrate() {
  if ! RIACHO_IMAGE=$next compose run --rm --no-deps -T migrate || ! start "$next" "${stages[@]}" || ! try_gateway; then go_back; fi
  if ! keep_image "$next" || ! note opening; then
    fail "$next and its schema are in order, which could not be written down beside $settings; the gateways are stopped. Make room, and" \
      "run: deploy.sh $next"
  fi
  if ! start "$next" gateway || ! "$here/scripts/health-check.sh" --services; then
    fail "$next and its schema are in force, and not all is well; look at: docker compose logs. Uploads may have been taken: to go back" \
      "and lose them, set RIACHO_IMAGE=$present in $settings and run: restore.sh $copy --yes"
  fi
  rm -f "$deployment"
  say "deployed $next, with its schema"
}

# Nothing writes after it, what a run before this one has left at work included.
halt() {
  compose stop "${services[@]}" >/dev/null 2>&1 || fail "the services could not be stopped"
  end_left_work || fail "a migration that was cut off could not be ended; everything is stopped, and $copy is the copy from before it"
}

# To the copy only where the schema is another one by now.
go_back() {
  local fits=0 checked
  halt
  # The settings may name the next one already, and what starts things after this script reads them.
  keep_image "$present" || fail "everything is stopped, and $settings could not be written; make room, and run: deploy.sh $present"
  checked=$(check_schema "$present") || fits=$?
  if [ "$fits" = 0 ] && [ -n "$asked_back" ]; then
    start "$present" "${services[@]}" || fail "starting $present failed; look at: docker compose logs"
    went_back
  fi
  if [ "$fits" = 0 ]; then abandon "$next was not in order and did not change the schema"; fi
  # 4 is said where the schema is another one, and nowhere else.
  [ "$fits" = 4 ] || fail "everything is stopped, and $present cannot be asked whether the schema is still its own: $checked; the copy is $copy"
  bring_back
}

bring_back() {
  # restore.sh works with the image of the settings.
  if ! keep_image "$present" || ! note restoring; then
    fail "everything is stopped, and the way back could not be written down beside $settings; make room, and run: deploy.sh $present"
  fi
  say "going back to $present and to the copy"
  "$here/scripts/restore.sh" "$copy" --yes || fail "restoring $copy failed as well; look at: docker compose logs"
  went_back
}

went_back() {
  rm -f "$deployment"
  [ -n "$asked_back" ] || fail "$next was not in order; $present is in force again, with all documents that were accepted"
  say "$present is in force again, with all documents that were accepted"
  exit 0
}

# All was replaced, and what is left is to start it. Not with the image that is asked for, since it may change the schema.
finish_restore() {
  say "restoring $(noted copy) was cut off before everything was started; starting it"
  if ! compose up --detach --wait --wait-timeout 300 || ! "$here/scripts/health-check.sh" --services; then
    fail "$(noted copy) is restored, and not all is well; look at: docker compose logs. Where $present is the reason, set RIACHO_IMAGE in" \
      "$settings to another one ($(cut -d ' ' -f 1 "$(noted copy)/image") made the copy), and run this again"
  fi
  if [ -n "$(noted next)" ] && [ "$next" = "$present" ]; then
    asked_back=yes
    went_back
  fi
  rm -f "$deployment"
}

# What a run before this one left undone.
take_up() {
  local was
  was=$(noted next)
  case $(noted phase) in
    rolling) say "the deployment of $was was cut off while services were replaced; going on to $next" ;;
    stopping)
      backup=$(noted backup)
      say "the deployment of $was was cut off before its migration, and no document has changed; going on to $next with $backup"
      [ -d "$backup" ] || backup=
      ;;
    migrating)
      present=$(noted present) backup=$(noted backup) copy=$(noted copy)
      case $next in
        "$was")
          say "the deployment of $was was cut off in its migration; going on with it, and the way back is $copy"
          halt
          migrate
          exit 0
          ;;
        "$present")
          say "the deployment of $was was cut off in its migration; going back from it"
          next=$was asked_back=yes
          go_back
          ;;
        *) fail "the deployment of $was was cut off in its migration: deploy.sh $was goes on with it, and deploy.sh $present goes back from it" ;;
      esac
      ;;
    restoring)
      copy=$(noted copy)
      if [ -z "$was" ]; then
        say "restoring $copy was cut off; doing it again, and going on to $next then"
        "$here/scripts/restore.sh" "$copy" --yes || fail "restoring $copy failed as well"
        copy=
        return
      fi
      present=$(noted present) backup=$(noted backup)
      say "the way back from $was was cut off; going it again"
      halt
      if [ "$next" = "$present" ]; then asked_back=yes; fi
      next=$was
      bring_back
      ;;
    opening)
      say "the deployment of $was was cut off after its migration, and $was is in force; going on to $next. The way back to $(noted present)," \
        "without what came since, is $(noted copy)"
      ;;
    restored) finish_restore ;;
    *) fail "$deployment cannot be read; see what runs, and remove it" ;;
  esac
}

# Before anything was begun, or with nothing but the stop that a run before this one made.
refuse() {
  if [ -n "$stopped" ]; then abandon "$*"; fi
  fail "nothing was changed: $*"
}

# The newest backup that an image has made: the way back to it.
copy_of() {
  local folder found='a backup that it made'
  if [ "$(noted phase)" = opening ] && [ "$(noted present)" = "$1" ]; then found=$(noted copy); fi
  if [ -d "$found" ]; then
    printf '%s' "$found"
    return
  fi
  for folder in "$(setting RIACHO_BACKUPS /var/backups/riacho)"/[0-9]*T*Z*; do
    if [ -r "$folder/image" ] && [ "$(cut -d ' ' -f 1 "$folder/image")" = "$1" ]; then found=$folder; fi
  done
  printf '%s' "$found"
}

stopped=
if [ -e "$deployment" ]; then
  take_up
  stopped=$(noted phase | grep -x stopping || true)
fi
if [ -n "$backup" ]; then
  say "backup: $backup"
elif [ "${2:-}" != --without-backup ]; then
  say "making a backup"
  backup=$("$here/scripts/backup.sh" | tail -n 1)
  say "backup: $backup"
fi

fits=0
checked=$(check_schema "$next") || fits=$?
if [ "$fits" = 0 ]; then
  note rolling || refuse "the deployment could not be written down in $deployment"
  if roll_all && "$here/scripts/health-check.sh" --services; then
    keep_image "$next" || fail "$next is in force, and $settings could not be written; make room, and run this again"
    rm -f "$deployment"
    say "deployed $next"
    exit 0
  fi
  say "rolling back to $present"
  roll_back || fail "rolling back to $present failed as well; look at: docker compose logs"
  rm -f "$deployment"
  fail "$next was not healthy; $present is in force again"
fi

# 4 is said where the schema is another one, and nowhere else: whatever else is wrong, everything goes on as it is.
if [ "$fits" != 4 ]; then
  refuse "$next cannot be asked whether it fits the schema: $checked"
fi
case $checked in
  *"knows only"*)
    refuse "$next is older than the schema and cannot work with it. To go back to it, and lose what came since, set RIACHO_IMAGE=$next in" \
      "$settings and run: restore.sh $(copy_of "$next") --yes"
    ;;
esac
[ -n "$backup" ] || fail "$next needs another schema, and without a backup there is no way back; run without --without-backup"
note stopping || refuse "the deployment could not be written down in $deployment"
say "stopping everything for the migration"
compose stop "${services[@]}" >/dev/null 2>&1 || abandon "the services could not be stopped"
say "copying the servers as they are now"
copy=$("$here/scripts/backup.sh" --servers | tail -n 1) || abandon "the servers could not be copied"
note migrating || abandon "the deployment could not be written down in $deployment"
migrate
