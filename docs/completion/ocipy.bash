# bash completion for ocipy; made by tools/make_cli_docs.py
_ocipy() {
  local words=() command= global=() cur prev last i
  # bash parts --flag=value into three words
  for i in "${COMP_WORDS[@]:0:COMP_CWORD}"; do [[ $i == = ]] || words+=("$i"); done
  cur="${COMP_WORDS[COMP_CWORD]#=}" last=${#words[@]} prev="${words[@]: -1}"
  for ((i = 1; i < last; i++)); do
    case "${words[i]}" in
    --root|--log|--log-format|--log-level|--rootless|--cgroup-manager) global+=("${words[i]}" "${words[i+1]}"); ((i++)) ;;
    -*) global+=("${words[i]}") ;;
    *) command="${words[i]}"; break ;;
    esac
  done
  case "$command $prev" in
    " --root") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    " --log") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    " --log-format") COMPREPLY=($(compgen -W "text json" -- "$cur")); return ;;
    " --log-level") COMPREPLY=($(compgen -W "debug info warning error" -- "$cur")); return ;;
    " --rootless") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    " --cgroup-manager") COMPREPLY=($(compgen -W "cgroupfs systemd disabled" -- "$cur")); return ;;
    "create --bundle"|"create -b") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "create --console-socket") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "create --pidfd-socket") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "create --pid-file") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "create --preserve-fds") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "run --bundle"|"run -b") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "run --console-socket") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "run --pidfd-socket") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "run --pid-file") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "run --preserve-fds") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "run --rootfs") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "exec --process"|"exec -p") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "exec --cwd") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "exec --env"|"exec -e") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "exec --user"|"exec -u") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "exec --console-socket") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "exec --pidfd-socket") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "exec --pid-file") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "exec --preserve-fds") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "exec --additional-gids"|"exec -g") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "exec --cap"|"exec -c") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "exec --cgroup") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "exec --apparmor") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "exec --process-label") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "list --format"|"list -f") COMPREPLY=($(compgen -W "table json" -- "$cur")); return ;;
    "ps --format"|"ps -f") COMPREPLY=($(compgen -W "table json" -- "$cur")); return ;;
    "update --resources"|"update -r") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "update --blkio-weight") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --cpu-period") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --cpu-quota") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --cpu-burst") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --cpu-share") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --cpu-rt-period") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --cpu-rt-runtime") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --cpu-idle") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --cpuset-cpus") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --cpuset-mems") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --memory") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --memory-reservation") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --memory-swap") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --kernel-memory") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --kernel-memory-tcp") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --pids-limit") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --l3-cache-schema") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "update --mem-bw-schema") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "events --interval") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "checkpoint --image-path") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "checkpoint --work-path") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "checkpoint --manage-cgroups-mode") COMPREPLY=($(compgen -W "ignore soft full strict" -- "$cur")); return ;;
    "checkpoint --empty-ns") COMPREPLY=($(compgen -W "network" -- "$cur")); return ;;
    "checkpoint --parent-path") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "checkpoint --page-server") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "checkpoint --status-fd") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "restore --image-path") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "restore --work-path") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "restore --manage-cgroups-mode") COMPREPLY=($(compgen -W "ignore soft full strict" -- "$cur")); return ;;
    "restore --empty-ns") COMPREPLY=($(compgen -W "network" -- "$cur")); return ;;
    "restore --bundle"|"restore -b") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "restore --console-socket") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "restore --pid-file") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "restore --lsm-profile") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "restore --lsm-mount-context") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
    "spec --bundle"|"spec -b") COMPREPLY=($(compgen -f -- "$cur")); return ;;
    "explain --id") COMPREPLY=($(compgen -W "" -- "$cur")); return ;;
  esac
  case "$command" in
    "") COMPREPLY=($(compgen -W "--root --log --log-format --log-level --debug --rootless --systemd-cgroup --cgroup-manager --help -h --version -v create start state kill delete run exec list ps pause resume update events checkpoint restore features spec validate explain" -- "$cur")) ;;
    "create") COMPREPLY=($(compgen -W "--bundle -b --console-socket --pidfd-socket --pid-file --preserve-fds --no-pivot --no-new-keyring $(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "start") COMPREPLY=($(compgen -W "$(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "state") COMPREPLY=($(compgen -W "$(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "kill") COMPREPLY=($(compgen -W "--all -a --regex -r $(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "delete") COMPREPLY=($(compgen -W "--force -f --regex -r $(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "run") COMPREPLY=($(compgen -W "--bundle -b --console-socket --pidfd-socket --pid-file --preserve-fds --no-pivot --no-new-keyring --detach -d --no-subreaper --rootfs --keep --timings $(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "exec") COMPREPLY=($(compgen -W "--process -p --cwd --env -e --user -u --tty -t --detach -d --console-socket --pidfd-socket --pid-file --preserve-fds --additional-gids -g --cap -c --no-new-privs --cgroup --ignore-paused --apparmor --process-label $(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "list") COMPREPLY=($(compgen -W "--format -f --quiet -q" -- "$cur")) ;;
    "ps") COMPREPLY=($(compgen -W "--format -f $(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "pause") COMPREPLY=($(compgen -W "$(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "resume") COMPREPLY=($(compgen -W "$(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "update") COMPREPLY=($(compgen -W "--resources -r --blkio-weight --cpu-period --cpu-quota --cpu-burst --cpu-share --cpu-rt-period --cpu-rt-runtime --cpu-idle --cpuset-cpus --cpuset-mems --memory --memory-reservation --memory-swap --kernel-memory --kernel-memory-tcp --pids-limit --l3-cache-schema --mem-bw-schema $(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "events") COMPREPLY=($(compgen -W "--stats --interval $(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "checkpoint") COMPREPLY=($(compgen -W "--image-path --work-path --tcp-established --ext-unix-sk --shell-job --lazy-pages --file-locks --manage-cgroups-mode --empty-ns --auto-dedup --parent-path --leave-running --pre-dump --tcp-skip-in-flight --link-remap --page-server --status-fd $(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "restore") COMPREPLY=($(compgen -W "--image-path --work-path --tcp-established --ext-unix-sk --shell-job --lazy-pages --file-locks --manage-cgroups-mode --empty-ns --auto-dedup --bundle -b --console-socket --pid-file --no-pivot --detach -d --no-subreaper --lsm-profile --lsm-mount-context $(ocipy "${global[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    "features") COMPREPLY=($(compgen -W "" -- "$cur")) ;;
    "spec") COMPREPLY=($(compgen -W "--bundle -b --rootless" -- "$cur")) ;;
    "validate") COMPREPLY=($(compgen -W "" -- "$cur")); COMPREPLY+=($(compgen -d -- "$cur")) ;;
    "explain") COMPREPLY=($(compgen -W "--id" -- "$cur")); COMPREPLY+=($(compgen -d -- "$cur")) ;;
    help) COMPREPLY=($(compgen -W "create start state kill delete run exec list ps pause resume update events checkpoint restore features spec validate explain" -- "$cur")) ;;
  esac
}
complete -F _ocipy ocipy
