"""Half products: tied layers computed with half of the multiplications, in pure torch or in C++ that is built once."""
