#!/bin/bash
# The tests under a pure cgroup v2 hierarchy: in two guest kernels side by side, since each has one CPU.
#
#   tools/test-v2.sh [PYTEST ARGUMENT...]
#
# Left out is what no hierarchy can change: tests of pure code, of the refusal of configs, and of command lines
# against runc's, whose starts take a second there; and what is run apart (docker).
set -u
cd "$(dirname "$0")/.."
everywhere='bind_flags bind_sources boot cgroup_values cli_docs conformance differential docker features json_order
    launcher log mutants plan properties
    refused rooms schema_verdict seccomp_compile security_page systemd_bus systemd_unit validate validate_rules'
mapfile -t files < <(ls -S spec-tests/test_*.py)
shards=('' '')
turn=0
for file in "${files[@]}"; do
    name=${file#spec-tests/test_}
    [[ " $(echo $everywhere) " == *" ${name%.py} "* ]] && continue
    shards[turn % 4 == 1 || turn % 4 == 2]+=" $file" # the largest to one, the next two to the other, and so on
    turn=$((turn + 1))
done
logs=$(mktemp -d)
trap 'rm -rf --one-file-system "$logs"' EXIT
for shard in 0 1; do
    tools/guest-run.sh -t 1500 "$PWD/.venv/bin/python -m pytest -p no:cacheprovider ${shards[shard]} $*" >"$logs/$shard" 2>&1 &
    pids[shard]=$!
done
status=0
for shard in 0 1; do
    wait "${pids[shard]}" || status=$?
    cat "$logs/$shard"
done
exit "$status"
