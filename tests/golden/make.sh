#!/usr/bin/env bash
# Make a demonstration workspace with the code of an older revision, and keep what that code
# answers about it: what tests/golden/test_workspace.py compares today's code with.
#
#   tests/golden/make.sh FOLDER [REVISION]
#
# It takes about ten minutes on two cores, and needs this repository's history.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$1
revision=${2:-ab547da}   # the last one before facts had types
mkdir -p "$folder/code"
git archive "$revision" | tar -x -C "$folder/code"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet -c "$folder/code/.ci/constraints.txt" torch
"$folder/venv/bin/pip" install --quiet -c "$folder/code/.ci/constraints.txt" -e "$folder/code"
btx=$(cd "$folder" && pwd)/venv/bin/btx
"$btx" demo --dir "$folder/workspace"
mkdir -p "$folder/answers"
answers=$(cd "$folder/answers" && pwd)
cd "$folder/workspace"
for kind in seeds data experts builds; do
  "$btx" list $kind --json > "$answers/list-$kind.json"
done
for build in 1 2 3; do
  # Status 4, audit findings, is an answer too: the demonstration withdraws a data version.
  "$btx" audit build/$build --json > "$answers/audit-$build.json" || [ $? = 4 ]
  "$btx" show build/$build --json > "$answers/show-$build.json"
  "$btx" lineage build/$build --json > "$answers/lineage-$build.json"
done
"$btx" explain build/3 --text "12 + 30 = 42" --json > "$answers/explain-3.json"
