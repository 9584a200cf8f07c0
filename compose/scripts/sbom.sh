#!/usr/bin/env bash
# Writes what an image is made of, in the form of SPDX: Debian's packages, the crates in the binary. sbom.sh IMAGE FILE
# Needs syft on the PATH, or what `setup.py compose` brings.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: sbom.sh IMAGE FILE" >&2; exit 2; }

root=$(cd "$(dirname "$0")/../.." && pwd)
export PATH=$PATH:$root/.riacho/tools/docker/bin
command -v syft >/dev/null || { echo "syft is missing; python3 crates/local/setup/setup.py compose brings it" >&2; exit 1; }
SYFT_CHECK_FOR_APP_UPDATE=false syft scan --quiet "docker:$1" --output "spdx-json=$2"
