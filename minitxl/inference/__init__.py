"""A trained model in use: reading with kept keys and values, evaluation, sampling."""
