"""Where a peer's processes run. A peer driver uses lab.nodes.node.Node and never asks what is behind it."""
