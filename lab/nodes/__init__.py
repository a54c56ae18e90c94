"""Places where the processes of a peer run. One interface; today: network namespaces."""
