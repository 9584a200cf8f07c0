# shellcheck shell=bash
# What the scripts share: where the project is, its settings, and `compose` with its files. Sourced, not run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
settings=${RIACHO_SETTINGS:-$here/.env}
# How far a deployment is, while there is one.
# shellcheck disable=SC2034 # deploy.sh, restore.sh and health-check.sh use it
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
