"""A host's fixed integer matrix times a guest's secret vectors, at the price of plain sums.

docs/lattice.md has the scheme, its bounds and what each side learns. One idea a file: parameters, ring
(products of polynomials), randomness, words (as bytes), wide (numbers of two words), vectors (the guest
encrypts), matrix (the host's hint and sums), hint (the encrypted hint and its products with secrets),
answers (flooded sums, and their opening); and kernels in vector code: lanes (transforms), pairs (the
same, two numbers in a word), tiles (sums), products (of a hint).
"""
