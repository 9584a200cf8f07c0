#!/usr/bin/env bash
# Makes the passwords of compose.monitoring.yaml where there are none, and changes none that is there:
#   make-monitoring-secrets.sh [FOLDER]
# The folder is that of the other secrets: the password of Redis is taken from redis_auth there, if Redis has one.
set -euo pipefail

folder=${1:-$(cd "$(dirname "$0")/.." && pwd)/secrets}
# Only root enters the folder. The files are readable, since containers see them under accounts of their own.
mkdir -p "$folder"
chmod 700 "$folder"

password() { openssl rand -hex 24; }

put() {
  local file=$folder/$1
  if [ -s "$file" ]; then return; fi
  (umask 077 && printf '%s\n' "$2" >"$file.new")
  chmod 444 "$file.new"
  mv "$file.new" "$file"
}

put grafana_admin_password "$(password)"
put postgres_monitor_password "$(password)"
if [ -r "$folder/redis_auth" ]; then
  secret=$(sed -n 's/^requirepass //p' "$folder/redis_auth")
  put redis_exporter_passwords "{\"redis://redis:6379\": \"$secret\"}"
else
  put redis_exporter_passwords '{}'
fi
echo "the secrets are in $folder"
