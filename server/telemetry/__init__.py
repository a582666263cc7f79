"""What operators read: health, metrics, traces, logs."""
