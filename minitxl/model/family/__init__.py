"""The family, to be read when it is wanted: other encodings, vocabularies for many words."""
