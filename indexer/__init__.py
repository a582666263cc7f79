"""Offline rebuilds: embed, build, verify, publish and roll back bundles."""
