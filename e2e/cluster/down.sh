#!/usr/bin/env bash
# Stops the cluster that up.sh started for STATE_DIR and removes all of it. usage: down.sh STATE_DIR
# Does nothing where there is none, and touches no process but that cluster's.
set -uo pipefail
state=$(cd "$1" 2>/dev/null && pwd) || exit 0
[ -e "$state/run/cgroup" ] || exit 0
cgroup=$(cat "$state/run/cgroup")

owned() { # the cluster's own processes carry its name in their environment
  local process
  for process in $(grep -lsxz "SLUICE_CLUSTER=$state" /proc/[0-9]*/environ | cut -d/ -f3); do
    [ "$process" = $$ ] || [ "$process" = $PPID ] || echo "$process"
  done
}
in_pods() {
  find /sys/fs/cgroup/*/"$cgroup" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u
}
for _ in 1 2 3; do # what was being started meanwhile goes in the next round
  processes="$(owned) $(in_pods)"
  [ -z "${processes// /}" ] && break
  kill -KILL $processes 2>/dev/null
  sleep 0.3
done
find /sys/fs/cgroup/*/"$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
awk -v prefix="$state/" 'index($2, prefix) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l
rm -rf "$state"
