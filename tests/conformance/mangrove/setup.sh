#!/bin/bash
# Called by the harness before a run: links the binary under test. $MANGROVE names it; otherwise it is the newest of this
# tree's builds. (A link with its whole path, because the harness shows this directory under another one.)
set -e
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../../target}
binary=${MANGROVE:-$(ls -t "$target"/{release,debug}/mangrove 2>/dev/null | head -n 1)}
[ -x "$binary" ] || { echo "setup.sh: no binary; run cargo build --release -p mangrove first" >&2; exit 2; }
ln -sfn "$(realpath "$binary")" "$here/mangrove"
