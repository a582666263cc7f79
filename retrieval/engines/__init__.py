"""What runs the towers: torch where they are trained, OpenVINO where they serve."""
