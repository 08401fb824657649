//! Answers to the name of libcublasLt, and has nothing in it: the loader finds its functions in the
//! stand-in driver, which it needs.
