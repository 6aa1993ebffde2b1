"""The formulas of LoRA² as pure functions of tensors.

Symbols, with shapes in the paper's row convention (y = x W, W is d_in × d_out); where a docstring
has `...` in a shape, leading batch dimensions are accepted, so that all matrices of one shape are
one computation:

    v       [d_in, k]    outer factor on the input side
    u       [k, r]       inner factor on the input side,   P = v u      (eq. 4)
    lam     [r]          the singular values, Λ = diag(lam)
    U (𝒰)   [r, k]       inner factor on the output side,  Q = 𝒰 𝒱      (eq. 4)
    V (𝒱)   [k, d_out]   outer factor on the output side
    Δ = P Λ Q            the learnt change of W

Equation and section numbers are those of the LoRA² paper (arXiv 2408.06854).
"""
