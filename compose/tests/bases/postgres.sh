#!/usr/bin/env bash
# What compose.yaml relies on of the official image's entry point: the first start makes the data directory, sets the superuser's password
# and runs the scripts of docker-entrypoint-initdb.d on a server that only its socket reaches.
set -euo pipefail

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  password=${POSTGRES_PASSWORD:-}
  if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
    if [ -n "$password" ]; then echo "both POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are set" >&2; exit 1; fi
    password=$(<"$POSTGRES_PASSWORD_FILE")
  fi
  initdb --username postgres --pwfile <(printf '%s\n' "${password:?no password}") --auth-local trust --auth-host scram-sha-256 >/dev/null
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start >/dev/null
  export PGPASSWORD=$password
  for script in /docker-entrypoint-initdb.d/*.sh; do "$script"; done
  pg_ctl -D "$PGDATA" -m fast -w stop >/dev/null
  unset PGPASSWORD
fi
exec "$@"
