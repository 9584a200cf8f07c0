#!/usr/bin/env bash
# Runs once, on an empty data directory: the database, its extension that only a superuser may create, and three logins with no more
# rights than each needs (docs/adr/0007). The tables and the rest come from `riacho migrate`.
set -euo pipefail

# From a secret's file where there are such (compose.prod.yaml), else from the environment: the password in a URL
# postgresql://LOGIN:PASSWORD@HOST/DATABASE.
password_of() {
  local secret=/run/secrets/$1
  if [ -r "$secret" ]; then
    sed -E 's#^[a-z]+://[^:/@]+:([^@]+)@.*$#\1#; q' "$secret"
  else
    printf '%s' "${RIACHO_DATABASE_PASSWORD:?neither a secret $1 nor RIACHO_DATABASE_PASSWORD is there}"
  fi
}

psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username postgres --dbname postgres \
  --set owner="$(password_of database_owner_url)" \
  --set app="$(password_of database_url)" \
  --set tasks="$(password_of database_janitor_url)" <<'SQL'
CREATE ROLE riacho_service NOLOGIN;
CREATE ROLE riacho_janitor NOLOGIN;
CREATE ROLE riacho_search NOLOGIN;
CREATE ROLE riacho_owner LOGIN PASSWORD :'owner';
CREATE ROLE riacho_app LOGIN PASSWORD :'app';
CREATE ROLE riacho_tasks LOGIN PASSWORD :'tasks';
GRANT riacho_service TO riacho_app WITH INHERIT FALSE, SET TRUE;
GRANT riacho_janitor TO riacho_tasks WITH INHERIT FALSE, SET TRUE;
-- Grants to them are made by whoever owns the tables, and one function is given to riacho_search.
GRANT riacho_service, riacho_janitor, riacho_search TO riacho_owner WITH INHERIT FALSE, SET TRUE;
CREATE DATABASE riacho OWNER riacho_owner;
REVOKE ALL ON DATABASE riacho FROM PUBLIC;
GRANT CONNECT ON DATABASE riacho TO riacho_app, riacho_tasks;
\connect riacho
CREATE EXTENSION vector;
SQL
