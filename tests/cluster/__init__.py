"""A real two-node Kubernetes on one Linux machine: `make cluster-up`, `make cluster-down`, and tests that need it.

`up` takes what the machine has: an existing kubeconfig, kind, or a cluster of its own. That one is a process tree in
namespaces of its own (pid, mount, network), so that ending its first process ends all of it, mounts and firewall rules
included. `machine` is that first process, `node` one node in it. docs/cluster.md shows the whole.
"""
