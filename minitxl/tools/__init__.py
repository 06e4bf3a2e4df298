"""What the machine has (`doctor`), how fast a step is (`bench`), what a GPU does (`gpu_report`)."""
