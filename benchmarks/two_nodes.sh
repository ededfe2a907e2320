#!/usr/bin/env bash
# Trains on two "nodes" of this one machine: two network namespaces of their own, joined by a cable, and torchrun in each.
# Each sees its own end of the cable and nothing else; files are shared, as on a cluster. Needs Linux with user namespaces, no root.
#
#   benchmarks/two_nodes.sh 2 clip --data data/photos --out runs/two-nodes      # two processes on each node
#
# The first argument is the number of processes per node; the others are those of "wholegrain train". SCRIPT replaces what is trained,
# TORCHRUN adds options of torchrun, such as --max-restarts 3.
set -euo pipefail

if [ -z "${INSIDE:-}" ]; then
    INSIDE=1 exec unshare --user --map-root-user --net -- "$0" "$@"
fi
per_node=$1
shift

nodes=()
for node in 0 1; do
    unshare --net -- sleep 100000 &
    nodes+=($!)
done
trap 'kill "${nodes[@]}" 2>/dev/null' EXIT
for try in $(seq 100); do # until both are in namespaces of their own
    here=$(readlink /proc/self/ns/net)
    [ "$(readlink /proc/${nodes[0]}/ns/net)" != "$here" ] && [ "$(readlink /proc/${nodes[1]}/ns/net)" != "$here" ] && break
    sleep 0.05
done

ip link add cable0 type veth peer name cable1
for node in 0 1; do
    ip link set "cable$node" netns "${nodes[$node]}"
    nsenter --target "${nodes[$node]}" --net -- sh -c "
        ip link set lo up; ip link set cable$node name eth0; ip addr add 10.77.0.$((node + 1))/24 dev eth0; ip link set eth0 up"
done

train() { # node, arguments
    node=$1
    shift
    GLOO_SOCKET_IFNAME=eth0 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} nsenter --target "${nodes[$node]}" --net -- \
        python -m torch.distributed.run --nnodes 2 --nproc-per-node "$per_node" \
        --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29400 --rdzv-id two-nodes --rdzv-conf "is_host=$((1 - node))" --local-addr "10.77.0.$((node + 1))" \
        ${TORCHRUN:-} "$@"
}

train 1 ${SCRIPT:--m wholegrain train} "$@" &
second=$!
train 0 ${SCRIPT:--m wholegrain train} "$@"
wait "$second"
