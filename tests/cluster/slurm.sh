#!/usr/bin/env bash
# A separate Slurm cluster for tests on this machine: slurmctld, a slurmd for each of three nodes, munged; two partitions, where jobs of `high` preempt those of `low`; short time-outs.
#     slurm.sh up <folder>       # prints nothing; afterwards SLURM_CONF=<folder>/slurm.conf
#     slurm.sh node <folder> n2  # restarts the daemon of one node
#     slurm.sh controller <folder>
#     slurm.sh ids <folder> 100  # from now on, job ids from this one
#     slurm.sh down <folder>
# An installed Slurm is not touched: this one has its own ports, munge key and socket, and configuration. Exit code 3: the cluster can't be started here; the reason is on stderr.
set -euo pipefail
what=$1 at=$2 nodes=3
export SLURM_CONF=$at/slurm.conf PATH=$PATH:/usr/sbin:/sbin
start_node() { mkdir -p "$at/spool-$1"; slurmd -f "$SLURM_CONF" -N "$1"; }
# A zombie does not count as alive.
alive() { kill -0 "$1" 2>/dev/null && ! grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null; }
ended() { local pid; pid=$(cat "$1" 2>/dev/null) || return 0; kill "${2:-}" "$pid" 2>/dev/null || true; for _ in $(seq 50); do alive "$pid" || return 0; sleep 0.1; done; kill -9 "$pid" 2>/dev/null || true; }

case $what in
up)
  for program in slurmctld slurmd sbatch munged; do
    command -v $program >/dev/null || { echo "there is no $program here (Debian: apt-get install slurmctld slurmd slurm-client munge)" >&2; exit 3; }
  done
  [ "$(id -u)" = 0 ] || { echo "its daemons are started as root, and this is $(id -un)" >&2; exit 3; }
  host=$(hostname -s)
  # Free ports.
  port=$((20000 + RANDOM % 20000))
  while ss -ltn 2>/dev/null | grep -qE ":($(seq -s '|' $port $((port + nodes))))\b"; do port=$((20000 + RANDOM % 20000)); done
  mkdir -p "$at"/{state,log,munge}; chmod 755 "$at"; chmod 711 "$at/munge"
  (umask 077; head -c 1024 /dev/urandom > "$at/munge/key"); touch "$at/log/munged.log"; chmod 600 "$at/log/munged.log"
  munged --force --socket="$at/munge/socket" --key-file="$at/munge/key" --pid-file="$at/munge/munged.pid" --seed-file="$at/munge/seed" --log-file="$at/log/munged.log" \
    || { echo "munged did not start: $(tail -n 2 "$at/log/munged.log")" >&2; exit 3; }
  {
    cat <<C
ClusterName=caravan-test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$at/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=8
KillWait=5
MinJobAge=60
SlurmctldPidFile=$at/slurmctld.pid
SlurmdPidFile=$at/slurmd-%n.pid
SlurmdSpoolDir=$at/spool-%n
StateSaveLocation=$at/state
SlurmUser=root
SlurmctldLogFile=$at/log/slurmctld.log
SlurmdLogFile=$at/log/slurmd-%n.log
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
C
    for i in $(seq $nodes); do echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=2 RealMemory=2000 Gres=gpu:1"; done
    echo "PartitionName=low Nodes=n[1-$nodes] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=5"
    echo "PartitionName=high Nodes=n[1-$nodes] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF"
  } > "$SLURM_CONF"
  for i in $(seq $nodes); do echo "NodeName=n$i Name=gpu File=/dev/null"; done > "$at/gres.conf"
  slurmctld -f "$SLURM_CONF"
  for i in $(seq $nodes); do start_node "n$i"; done
  for _ in $(seq 60); do [ "$(sinfo -h -p low -t idle -o %D 2>/dev/null)" = $nodes ] && exit 0; sleep 0.5; done
  echo "its nodes did not come up: $(sinfo 2>&1; tail -n 3 "$at"/log/slurm*.log)" >&2; exit 3 ;;
node) start_node "$3" ;;
controller) slurmctld -f "$SLURM_CONF" ;;
ids) sed -i '/^FirstJobId=/d' "$SLURM_CONF"; echo "FirstJobId=$3" >> "$SLURM_CONF"; scontrol reconfigure ;;
down)
  scancel --me 2>/dev/null || true; sleep 1
  for pid in "$at"/slurmd-*.pid "$at/slurmctld.pid" "$at/munge/munged.pid"; do ended "$pid"; done
  rm -rf "$at" ;;
*) echo "slurm.sh: expected up, node, controller, ids or down, not $what" >&2; exit 2 ;;
esac
