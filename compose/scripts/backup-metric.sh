#!/usr/bin/env bash
# Tells Prometheus that a backup has just gone well: backup-metric.sh [FOLDER]
# The node exporter reads the folder, RIACHO_TEXTFILES or /var/lib/riacho/textfiles. Run it as the last step of a backup.
set -euo pipefail

folder=${1:-${RIACHO_TEXTFILES:-/var/lib/riacho/textfiles}}
# The exporter runs under an account of its own, whatever the mask of whoever makes the backup.
umask 022
mkdir -p "$folder"
file=$folder/riacho_backup.prom
# Under another name first: the exporter must never read a half.
cat >"$file.new" <<METRICS
# HELP riacho_backup_last_success_timestamp_seconds When the last backup that went well ended.
# TYPE riacho_backup_last_success_timestamp_seconds gauge
riacho_backup_last_success_timestamp_seconds $(date +%s)
METRICS
mv "$file.new" "$file"
