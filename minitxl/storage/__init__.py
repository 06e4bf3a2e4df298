"""What lies on a disk: checkpoints that are always whole, and run folders."""
