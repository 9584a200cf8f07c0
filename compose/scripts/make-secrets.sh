#!/usr/bin/env bash
# Makes the passwords of compose.prod.yaml where there are none, and changes none that is there: make-secrets.sh [FOLDER]
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

put postgres_password "$(password)"
put database_owner_url "postgresql://riacho_owner:$(password)@postgres/riacho"
put database_url "postgresql://riacho_app:$(password)@postgres/riacho"
put database_janitor_url "postgresql://riacho_tasks:$(password)@postgres/riacho"
put redis_auth "requirepass $(password)"
secret=$(sed 's/^requirepass //' "$folder/redis_auth")
put redis_url "redis://:$secret@redis:6379"
echo "the secrets are in $folder"
