#!/usr/bin/env bash
# docker compose with the files and settings of this project, those of RIACHO_COMPOSE_FILES included: compose.sh ARGUMENT..
set -euo pipefail
# It is an operator's own hand, also while a script is at work.
needs_lock=no
# shellcheck source=compose/scripts/project.sh
source "$(dirname "$0")/project.sh"

compose "$@"
