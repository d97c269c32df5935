"""Downloads with resuming, verification and safe unpacking."""
