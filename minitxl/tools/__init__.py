"""Is all here that is needed (`doctor`), and how fast is it (`bench`)?"""
