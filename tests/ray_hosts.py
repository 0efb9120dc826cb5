"""A Ray cluster of three hosts that need be no machines of their own, and a head without devices.

python ray_hosts.py

It prints its address, and after each word of standard input a line: `add` adds a host, `remove` removes the oldest as
where a machine loses power. It ends with its input. A process of its own, since Ray forks and JAX may not be forked.
"""

import importlib
import sys
from typing import Any

BYTES = 80_000_000


def main() -> None:
  """Runs the cluster."""
  head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": BYTES}
  cluster = importlib.import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=head)
  hosts: list[Any] = [cluster.add_node(num_cpus=1, object_store_memory=BYTES) for _ in range(3)]
  print(cluster.address, flush=True)
  for word in map(str.strip, sys.stdin):
    if word == "add":
      hosts.append(cluster.add_node(num_cpus=1, object_store_memory=BYTES))
    else:
      cluster.remove_node(hosts.pop(0), allow_graceful=False)
    print("done", flush=True)
  cluster.shutdown()


if __name__ == "__main__":
  main()
