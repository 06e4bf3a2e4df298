"""Pictures that belong to one notebook each."""
