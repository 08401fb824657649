//! An empty library with the name of libcublasLt. It depends on the stand-in driver, where the
//! loader finds the functions of cuBLASLt.
