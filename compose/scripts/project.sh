# shellcheck shell=bash
# What the scripts share: where the project is, its settings, how far a deployment is, and `compose` with its files. Sourced, not run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
settings=${RIACHO_SETTINGS:-$here/.env}
# How far a deployment or a restore is, while there is one.
deployment=$settings.deployment

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

say() { printf '%s %s\n' "$(date -u +%H:%M:%S)" "$*"; }

# A setting: from the environment, else from the file, else the default.
setting() {
  local name=$1 otherwise=${2:-} line
  if [ -n "${!name:-}" ]; then
    printf '%s' "${!name}"
  elif line=$(grep -E "^$name=." "$settings" | tail -n 1); then
    printf '%s' "${line#*=}"
  else
    printf '%s' "$otherwise"
  fi
}

# Written down before it is done: a machine that loses its power in between leaves it for the next run. It fails where the disk is full, and
# what was noted before stands then. `next` is empty for a restore that no deployment asked for.
# shellcheck disable=SC2154 # whoever notes something has them
note() {
  printf '%s\n' "phase=$1" "next=$next" "present=$present" "backup=$backup" "copy=$copy" >"$deployment.new" &&
    sync "$deployment.new" &&
    mv "$deployment.new" "$deployment" &&
    sync "$(dirname "$deployment")"
}

noted() { if [ -e "$deployment" ]; then sed -n "s/^$1=//p" "$deployment"; fi; }

compose() {
  # RIACHO_COMPOSE_FILES adds files of one's own, separated by colons; a relative one is looked for in the folder of compose.yaml.
  local files=(--file "$here/compose.yaml" --file "$here/compose.prod.yaml") more file
  IFS=: read -r -a more <<<"$(setting RIACHO_COMPOSE_FILES)"
  for file in "${more[@]}"; do
    if [[ $file != /* ]]; then file=$here/$file; fi
    files+=(--file "$file")
  done
  docker compose --project-directory "$here" --env-file "$settings" "${files[@]}" "$@"
}

# The containers of a service that run.
containers() { compose ps --quiet "$1"; }

# The name of the project, which its containers are labelled with.
project() { compose config | sed -n 's/^name: //p'; }

# How many containers of a service the settings and files ask for: what `compose up` starts.
wanted_scale() {
  compose config | awk -v service="  $1:" '
    /^[^ ]/ { inside = 0; services = ($0 == "services:") }
    /^  [^ ]/ { inside = (services && $0 == service); if (inside) found = 1 }
    inside && /^    scale: / { scale = $2; scaled = 1 }
    END { print scaled ? scale : found + 0 }'
}

# Whether an image fits the schema as it is: 0, or 4 where it needs another one; it says why not.
check_schema() { RIACHO_IMAGE=$1 compose run --rm --no-deps -T migrate migrate --check 2>&1; }

# The containers that scripts and a start of everything run for one task.
left_containers() {
  docker ps --all --filter "label=com.docker.compose.project=$1" \
    --format '{{.ID}} {{.Label "com.docker.compose.oneoff"}} {{.Label "com.docker.compose.service"}}' |
    awk '$3 == "migrate" || ($2 == "True" && $3 ~ /^(gateway|redis|postgres)$/) { print $1 }'
}

# Ends what a script that was cut off has left at work, which goes on without it: containers for one task, and what the server still does for
# a migration whose client is gone. Until that has ended nobody can say which schema there is. The key is that of crates/store/src/migrate.rs.
end_left_work() {
  local name ids sessions deadline=$((SECONDS + 120))
  name=$(project) || return 1
  until ids=$(left_containers "$name") && [ -z "$ids" ]; do
    if ((SECONDS > deadline)); then return 1; fi
    # Some remove themselves meanwhile.
    xargs --no-run-if-empty docker rm --force <<<"$ids" >/dev/null 2>&1 || sleep 0.5
  done
  compose up --detach --wait --no-deps --no-recreate postgres >/dev/null 2>&1 || return 1
  until sessions=$(compose exec -T postgres psql --no-psqlrc --username postgres --dbname postgres --no-align --tuples-only --command \
    "SELECT count(pg_terminate_backend(pid)) FROM pg_locks
      WHERE locktype = 'advisory' AND classid = $((0x7269)) AND objid = $((0x6163686f))" 2>&1) && [ "$sessions" = 0 ]; do
    if ((SECONDS > deadline)); then return 1; fi
    sleep 0.5
  done
}

# A command in a container that has the objects: a gateway that is well, or a container for this alone where none is. One that ends and is
# started again and again is listed among those that run, and takes no command.
with_objects() {
  local id
  for id in $(containers gateway); do
    if [ "$(docker inspect --format '{{.State.Status}} {{with .State.Health}}{{.Status}}{{end}}' "$id" 2>/dev/null)" = "running healthy" ]; then
      docker exec "$id" sh -c "$1"
      return
    fi
  done
  compose run --rm --no-deps -T --entrypoint sh gateway -c "$1"
}

# Whether a file is a whole archive of the objects: read to its end, where tar passes over what it need not see, and two empty blocks end it.
is_whole_archive() {
  local first
  first=$(tar --list --no-seek --file "$1" | sed -n 1p) && [ "$first" = objects/ ] && [ "$(tail -c 1024 "$1" | tr -d '\0' | wc -c)" = 0 ]
}

# The state of a container's health check: healthy, unhealthy, starting; the container's own state where it has none.
health() { docker inspect --format '{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}' "$1" 2>/dev/null || echo gone; }

# Waits until containers are healthy; fails when one ends or is found unhealthy, or after some time.
await_healthy() {
  local deadline=$((SECONDS + $1)) id state
  shift
  for id in "$@"; do
    until state=$(health "$id"); [ "$state" = healthy ]; do
      if [ "$state" = gone ] || [ "$state" = unhealthy ] || [ "$(docker inspect --format '{{.State.Running}}' "$id" 2>/dev/null)" != true ]; then
        return 1
      fi
      if ((SECONDS > deadline)); then return 1; fi
      sleep 0.5
    done
  done
}

[ -r "$settings" ] || fail "there is no $settings; server-setup.sh makes it from env.example"
# Two of these at a time would undo each other's work. A script that another one runs has the lock already.
if [ -z "${RIACHO_LOCKED:-}" ] && [ "${needs_lock:-yes}" = yes ]; then
  exec 9>"$settings.lock"
  flock --wait 600 9 || fail "another script has been at work on this project for ten minutes"
  export RIACHO_LOCKED=1
fi
