#!/bin/sh
# The validation programs of opencontainers/runtime-tools against a runtime: a line for each, ok/not ok/skipped.
#
#     tools/runtime-tools.sh CHECKOUT [RUNTIME [PROGRAM...]]
#
# Builds them first if need be (Go; the checkout has all it needs). As root. They write in private mounts and a pid
# namespace, so that nothing stays mounted or running. The TAP output is in CHECKOUT/results/RUNTIME/.
set -eu
checkout=$(cd "$1" && pwd)
runtime=$(realpath "$(command -v "${2:-ocipy}")")
shift $(($# < 2 ? $# : 2))
cd "$checkout"

build() { # build OUTPUT DIRECTORY [FLAG...]
    output=$1 directory=$2
    shift 2
    [ -x "$output" ] || GOFLAGS=-mod=vendor GOTOOLCHAIN=local go build -o "$output" "$@" "$directory"
}
CGO_ENABLED=0 build runtimetest ./cmd/runtimetest
# Without a mount namespace the container's mounts would be these programs' own, and they remove what is below
# the bundle: that one case is left out.
grep -q '"mnt"' validation/linux_ns_itype/*.go ||
    sed -i 's/^\t*for _, nsName := range util.ProcNamespaces {/&\n\t\tif nsName == "mnt" {\n\t\t\tcontinue\n\t\t}/' \
        validation/linux_ns_itype/linux_ns_itype.go
[ $# -gt 0 ] || set -- $(cd validation && ls | grep -v '^util$')
for program; do build "validation/$program/$program.t" "./validation/$program"; done

results=$checkout/results/$(basename "$runtime")
mkdir -p "$results"
printf '%-42s %4s %4s %4s  %s\n' program ok 'not' skip exit
for program; do
    status=0
    unshare --mount --pid --fork --mount-proc --kill-child timeout -k 5 120 sh -c '
        mkdir -p /tmp/runtime-tools /run/runc /run/ocipy
        for directory in /tmp/runtime-tools /run/runc /run/ocipy; do mount -t tmpfs tmpfs $directory; done
        RUNTIME=$0 TMPDIR=/tmp/runtime-tools "$1" </dev/null' \
        "$runtime" "validation/$program/$program.t" >"$results/$program.tap" 2>"$results/$program.err" || status=$?
    count() { grep -cE "$1" "$results/$program.tap" || true; }
    good=$(count '^ *ok ') bad=$(count '^ *not ok ')
    [ "$good$bad" != 00 ] || bad=$(count '^ *"error"') # some have no tests, and print an error if there was one
    printf '%-42s %4s %4s %4s  %s\n' "$program" "$good" "$bad" "$(count '# SKIP')" "$status"
done
