#!/bin/sh
# One command of vfl from cron: ./nightly.sh score insurer.toml --model ... (docs/operations.md)
#
# One at a time, by a lock that the system lets go of however the run ends. A peer that is away (exit codes 7
# and 8) is tried again, up to TRIES times every PAUSE seconds: the same command goes on where it was.
# The log is appended to COMMAND.log, one object a line, the result is in COMMAND.json. Nothing is
# printed where all is well, else one line, which cron mails, and the exit code is vfl's.
set -u
command=${1:?usage: nightly.sh COMMAND PARTY.toml [OPTIONS]}
tries=${TRIES:-6}
pause=${PAUSE:-600}

exec 9>"nightly-$command.lock"
if ! flock --nonblock 9; then
  echo "vfl $command: the run before is at work still"
  exit 6
fi
wait_for_peers="--wait 600"
[ "$command" = doctor ] && wait_for_peers="--wait 60"
while :; do
  # shellcheck disable=SC2086 # two words
  VFL_LOG=json vfl "$@" $wait_for_peers --json >"$command.json.new" 2>>"$command.log" 9>&-
  code=$?
  case $code in
    0) mv "$command.json.new" "$command.json"; exit 0 ;;
    7|8) tries=$((tries - 1)) ;;
    *) tries=0 ;;
  esac
  if [ "$tries" -le 0 ]; then
    echo "vfl $command ended with exit code $code: $(tail -n 1 "$command.log")"
    exit "$code"
  fi
  sleep "$pause"
done
