"""Is all here that is needed (`doctor`), how fast is it (`bench`), what does a GPU do (`gpu_report`)?"""
